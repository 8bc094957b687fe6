"""The terminal, to which every text is printed as it is.

Names of sweeps, methods, files and folders are the user's and may hold what rich would read as markup or an emoji:
`[/]`, `:key:`. What is to be styled is given as a `rich.text.Text` or a `style`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TextColumn


def terminal(width: int | None = None, stderr: bool = False) -> Console:
    """Standard output, or standard error.

    Args:
        width: in columns, where it is no terminal; None: what rich assumes there.
    """
    from rich.console import Console

    shown = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if width is not None and not shown.is_terminal:
        shown.width = width
    return shown


def description() -> TextColumn:
    """The column of a progress bar that says what is done."""
    from rich.progress import TextColumn

    return TextColumn("{task.description}", markup=False)

"""The terminal: the one place from which commands print lines, tables, JSON and errors.

Text is printed as it is. Names of sweeps, methods, files and folders are the user's and may contain what rich would
read as markup or an emoji: `[/]`, `:key:`. Text that needs a style is passed as a `rich.text.Text` or with `style`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TextColumn


def terminal(width: int | None = None, stderr: bool = False) -> Console:
    """A console on standard output, or on standard error.

    Args:
        width: columns to use when the output is not a terminal; None for rich's default.
    """
    from rich.console import Console

    shown = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if width is not None and not shown.is_terminal:
        shown.width = width
    return shown


def say(*lines: str, stderr: bool = False) -> None:
    """Print lines without folding them, so that the commands in them can be copied."""
    for line in lines:
        print(line, file=sys.stderr if stderr else sys.stdout, flush=True)


def write_out(content: str | bytes) -> None:
    """Write the content of a file to standard output, with nothing before or after it."""
    sys.stdout.flush()
    if isinstance(content, bytes):
        sys.stdout.buffer.write(content)
    else:
        sys.stdout.write(content)
    sys.stdout.flush()


def say_json(data: Any) -> None:
    """Print plain values as JSON on standard output; what JSON lacks, such as a path, is printed as text."""
    say(json.dumps(data, indent=1, default=str))


def say_error(message: str) -> None:
    """Print `error: message` on standard error, with the first word in red on a terminal."""
    red, plain = ("\x1b[31m", "\x1b[0m") if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ("", "")
    say(f"{red}error:{plain} {message}", stderr=True)


def description() -> TextColumn:
    """The column of a progress bar that describes the work."""
    from rich.progress import TextColumn

    return TextColumn("{task.description}", markup=False)

"""Tables on the terminal through rich: coloured, or plain text of a fixed width if the output is not a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.model import Analysis
from analysis.render import text
from tensloradist.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 200


def console() -> Console:
    """Standard output; wide if it is not a terminal, so that no table is cut."""
    return terminal(width=PIPE_WIDTH)


def show(analysis: Analysis, to: Console) -> None:
    """Print all tables with their notes, and the warnings last, where readers notice them."""
    for block in analysis.blocks:
        if text.is_empty(block):
            to.print(f"{text.title(block)}: {text.emptiness(block)}", markup=False, highlight=False)
        else:
            to.print(_table(text.title(block), text.header(block), text.body(block), text.bold(block)))
        _notes(block.notes, to)
    for overall in analysis.overall:
        if text.has_overall(overall):
            header, lines = text.overall_table(overall)
            to.print(_table(text.title(overall), header, lines, set()))
            _notes(overall.notes, to)
    to.print(text.HEAD, markup=False, highlight=False)
    for warning in analysis.warnings:
        to.print(warning, markup=False, highlight=False)


def _notes(notes: list[str], to: Console) -> None:
    for note in notes:
        to.print(f"  {note}", markup=False, highlight=False)


def _table(title: str, header: list[str], lines: list[list[str]], bold: set[tuple[int, int]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="table.title"), title_justify="left")
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="left" if index == 0 else "right")
    for i, line in enumerate(lines):
        table.add_row(*(Text(cell, style="bold" if (i, j) in bold else "") for j, cell in enumerate(line)))
    return table

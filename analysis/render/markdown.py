"""Tables as one markdown document, its columns aligned so that it reads as plain text too."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.model import Analysis
from analysis.render import text


def markdown(analysis: Analysis) -> str:
    """All tables with their notes, and the warnings above them."""
    parts = [f"# {analysis.name}", "", text.HEAD, ""]
    parts += [f"> {escape(warning)}" for warning in analysis.warnings] + ([""] if analysis.warnings else [])
    for block in analysis.blocks:
        parts += [f"## {escape(text.title(block))}", ""]
        if text.is_empty(block):
            parts += [text.emptiness(block), ""]
        else:
            lines = text.wrapped(text.body(block), text.bold(block), "**", "**")
            parts += [*grid(_escaped(text.header(block), lines)), ""]
        parts += [f"- {escape(note)}" for note in block.notes] + [""]
    for overall in analysis.overall:
        parts += [f"## {escape(text.title(overall))}", ""]
        if text.has_overall(overall):
            parts += [*grid(_escaped(*text.overall_table(overall))), ""]
        parts += [f"- {escape(note)}" for note in overall.notes] + [""]
    return "\n".join(parts)


# What means more than itself: within a line of a table, of emphasis, code, HTML, a link, or an entity.
_SPECIAL = re.compile(r"[\\|`*<]|(?<!\w)_|_(?!\w)|~(?=~)|(?<=\])\(|&(?=[A-Za-z#])")


def escape(value: str) -> str:
    """Text for markdown, in a table or outside of one."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], value)


def _escaped(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """A table whose names stand for themselves; its numbers do so, and have marks of their own."""
    return [[escape(name) for name in header], *([escape(line[0]), *line[1:]] for line in lines)]


def grid(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first line is its header; the first column is flush left, the others right."""
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    rule = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
    padded = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in table
    ]
    return ["| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:])]

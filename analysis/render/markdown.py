"""Tables as one markdown document, with aligned columns so that it also reads well as plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.model import Analysis
from analysis.render import text


def markdown(analysis: Analysis) -> str:
    """The warnings, and all tables with their notes."""
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


# Characters with a meaning in tables, emphasis, code, HTML, links or entities.
_SPECIAL = re.compile(r"[\\|`*<]|(?<!\w)_|_(?!\w)|~(?=~)|(?<=\])\(|&(?=[A-Za-z#])")


def escape(value: str) -> str:
    """Text for markdown, inside or outside a table."""
    return _SPECIAL.sub(lambda match: "\\" + match[0], value)


def _escaped(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """A table with escaped names. Numbers need no escaping and may have bold marks."""
    return [[escape(name) for name in header], *([escape(line[0]), *line[1:]] for line in lines)]


def grid(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first line is the header; the first column is left-aligned, the others right."""
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    rule = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
    padded = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in table
    ]
    return ["| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:])]

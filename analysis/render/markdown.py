"""Tables as one markdown document, its columns aligned so that it reads as plain text too."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.analyse import Analysis
from analysis.render import text


def markdown(analysis: Analysis) -> str:
    """All tables with their notes, and the warnings above them."""
    parts = [f"# {analysis.name}", "", text.HEAD, ""]
    parts += [f"> {warning}" for warning in analysis.warnings] + ([""] if analysis.warnings else [])
    for block in analysis.blocks:
        parts += [f"## {text.title(block)}", ""]
        if text.is_empty(block):
            parts += [text.emptiness(block), ""]
        else:
            lines = text.wrapped(text.body(block), text.bold(block), "**", "**")
            parts += [*grid([text.header(block), *lines]), ""]
        parts += [f"- {note}" for note in block.notes] + [""]
    for overall in analysis.overall:
        parts += [f"## {text.title(overall)}", ""]
        if text.has_overall(overall):
            header, lines = text.overall_table(overall)
            parts += [*grid([header, *lines]), ""]
        parts += [f"- {note}" for note in overall.notes] + [""]
    return "\n".join(parts)


def grid(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose first line is its header; the first column is flush left, the others right."""
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    rule = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
    padded = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
        for line in table
    ]
    return ["| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:])]

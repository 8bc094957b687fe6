"""Tables as LaTeX for a paper: one `table` for each block, with booktabs rules. A fragment for \\input."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.model import Analysis
from analysis.render import text

PREAMBLE = "% \\usepackage{booktabs} in the preamble; pdfLaTeX, XeLaTeX and LuaLaTeX read this file.\n"
SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: "\\" + character for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "†": r"$\dagger$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "—": "---",
    "…": r"\ldots{}",
    "’": "'",
    "\u00a0": "~",
}


def latex(analysis: Analysis) -> str:
    """All tables, each followed by its notes in small print."""
    parts = [PREAMBLE]
    for number, block in enumerate(analysis.blocks, 1):
        if text.is_empty(block):
            parts.append(f"% {_comment(text.title(block))}: {_comment(text.emptiness(block))}\n")
            continue
        lines = [[escape(cell) for cell in line] for line in text.body(block)]
        lines = text.wrapped(lines, text.bold(block), r"\textbf{", "}")
        caption = f"{text.title(block)}. {text.HEAD}"
        parts.append(_table(f"block-{number}", caption, text.header(block), lines, block.notes))
    for number, overall in enumerate(analysis.overall, 1):
        if text.has_overall(overall):
            header, plain = text.overall_table(overall)
            lines = [[escape(cell) for cell in line] for line in plain]
            parts.append(_table(f"overall-{number}", text.title(overall), header, lines, overall.notes))
    return "\n".join(parts)


def escape(value: str) -> str:
    """Text for LaTeX, with special characters and signs without a glyph in pdfLaTeX replaced."""
    return "".join(SPECIAL.get(character, character) for character in value)


def _comment(value: str) -> str:
    return " ".join(value.split())


def _table(
    label: str, caption: str, header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]
) -> str:
    columns = "l" + "r" * (len(header) - 1)
    below = [r"  \par\smallskip\raggedright\footnotesize " + " ".join(escape(note) for note in notes)] if notes else []
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\small",
            rf"  \caption{{{escape(caption)}}}",
            rf"  \label{{tab:{label}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            "    " + " & ".join(escape(cell) for cell in header) + r" \\",
            r"    \midrule",
            *("    " + " & ".join(line) + r" \\" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            *below,
            r"\end{table}",
            "",
        ]
    )

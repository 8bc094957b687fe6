"""Paired differences to LoRA as a forest plot, with the region of practical equivalence shaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures.data import Forest
from analysis.figures.style import GRID, INK, ROW_INCHES, Margins, canvas, looks, mark, rows_of, text_inches

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(data: Forest) -> Figure:
    names = [method for method, _, _ in data.rows]
    texts = [text for _, _, text in data.rows]
    margins = Margins(left=0.15 + text_inches(names), right=0.3 + text_inches(texts))
    figure, axes = canvas(3.6, max(0.45, ROW_INCHES * 1.1 * len(names)), margins)
    styles = looks(names)
    if data.equivalence:
        axes.axvspan(-data.equivalence, data.equivalence, color=GRID, alpha=0.6, lw=0)
    axes.axvline(0, color=INK, lw=0.8)
    for index, (method, difference, text) in enumerate(data.rows):
        mark(axes, index, difference, styles[method])
        axes.annotate(
            text, (1, index), xytext=(8, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center"
        )
    rows_of(axes, names)
    axes.set_xlabel("difference to LoRA, points")
    axes.margins(x=0.06)
    return figure

"""Step time and peak memory by method: medians over runs, with lines from the least to the most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures.data import Cost
from analysis.figures.pairs import mark
from analysis.figures.style import ROW_INCHES, Margins, canvases, looks, rows_of, text_inches

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(data: Cost) -> Figure:
    names = [method for method, _, _ in data.rows]
    margins = Margins(left=0.15 + text_inches(names), right=0.2)
    height = max(0.45, ROW_INCHES * 1.1 * len(names))
    figure, (time, memory) = canvases(2.5, height, margins, columns=2, rows=1, share_rows=True)
    styles = looks(names)
    for index, (method, milliseconds, mebibytes) in enumerate(data.rows):
        look = styles[method]
        mark(time, index, milliseconds, look.color, look.marker, look.fill)
        mark(memory, index, mebibytes, look.color, look.marker, look.fill)
    for axes, label in ((time, "milliseconds a step"), (memory, "peak memory, MiB")):
        rows_of(axes, names)
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.08)
    memory.tick_params(axis="y", labelleft=False)
    return figure

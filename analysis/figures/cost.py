"""Step time and peak memory by method: medians over runs, with lines spanning the smallest to the largest value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures.data import Costs
from analysis.figures.style import ROW_INCHES, Margins, canvases, looks, mark, rows_of, text_inches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEBIBYTE = 2**20


def draw(data: Costs) -> Figure:
    names = [cost.method for cost in data.methods]
    margins = Margins(left=0.15 + text_inches(names), right=0.2)
    height = max(0.45, ROW_INCHES * 1.1 * len(names))
    figure, (time, memory) = canvases(2.5, height, margins, columns=2, rows=1, share_rows=True)
    styles = looks(names)
    for index, cost in enumerate(data.methods):
        look = styles[cost.method]
        mark(time, index, cost.step_seconds.scaled(1000), look)
        if cost.peak_bytes is not None:
            mark(memory, index, cost.peak_bytes.scaled(1 / MEBIBYTE), look)
    for axes, label in ((time, "milliseconds a step"), (memory, "peak memory, MiB")):
        rows_of(axes, names)
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.08)
    memory.tick_params(axis="y", labelleft=False)
    return figure

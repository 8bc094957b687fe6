"""The conditions of one rank side by side: a row for each method, a mark for each condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures.data import Pairs
from analysis.figures.style import GRID, INK, ROW_INCHES, Look, Margins, canvas, mark, rows_of, text_inches

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31")  # of conditions
MARKERS = "osDvPX^*"  # one more than colours, so that a repeated colour has another marker
LEGEND_INCHES = 0.19  # height of one line


def draw(data: Pairs) -> Figure:
    names = [method for method, _ in data.rows]
    columns = 2 if len(data.conditions) == 2 else 1  # long names get a line each
    lines = -(-len(data.conditions) // columns)
    margins = Margins(left=0.15 + text_inches(names), bottom=0.56 + LEGEND_INCHES * lines)
    height = ROW_INCHES * max(1.35, 0.25 + 0.5 * len(data.conditions))
    figure, axes = canvas(4.6, max(0.5, height * len(names)), margins)
    looks = [
        Look(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], "-", "none" if i % 2 else "full")
        for i in range(len(data.conditions))
    ]
    step = 0.34 if len(looks) == 2 else 0.76 / len(looks)
    for index, (method, scores) in enumerate(data.rows):
        if index % 2:
            axes.axhspan(index - 0.5, index + 0.5, color=GRID, alpha=0.25, lw=0)
        for place, (score, look) in enumerate(zip(scores, looks, strict=True)):
            mark(axes, index + step * (place - (len(looks) - 1) / 2), score, look)
        known = [score for score in scores if score is not None]
        if method.split()[0] == "lora" and known:
            axes.axvline(known[0].value, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0.9)
    rows_of(axes, names)
    axes.set_xlabel(f"{data.metric} × 100")
    axes.margins(x=0.06)
    handles = [axes.plot([], [], ls="none", **look.point)[0] for look in looks]
    below = -0.45 / (figure.get_size_inches()[1] * axes.get_position().height)
    axes.legend(handles, data.conditions, ncols=columns, loc="upper left", bbox_to_anchor=(0, below), borderaxespad=0)
    return figure

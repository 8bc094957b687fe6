"""Isorank and isoparameter side by side: a row for each method, a mark for each condition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures.data import Estimate, Pairs
from analysis.figures.style import GRID, INK, ROW_INCHES, Margins, canvas, rows_of, text_inches

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ISORANK, ISOPARAMETER = "#0072b2", "#d55e00"


def draw(data: Pairs) -> Figure:
    names = [method for method, _, _ in data.rows]
    margins = Margins(left=0.15 + text_inches(names), bottom=0.75)
    figure, axes = canvas(4.6, max(0.5, 1.35 * ROW_INCHES * len(names)), margins)
    for index, (method, isorank, isoparameter) in enumerate(data.rows):
        if index % 2:
            axes.axhspan(index - 0.5, index + 0.5, color=GRID, alpha=0.25, lw=0)
        mark(axes, index - 0.17, isorank, ISORANK, "o", "full")
        mark(axes, index + 0.17, isoparameter, ISOPARAMETER, "s", "none")
        if method.split()[0] == "lora" and (reference := isorank or isoparameter):
            axes.axvline(reference.mean, color=INK, lw=0.8, ls=(0, (4, 3)), zorder=0.9)
    rows_of(axes, names)
    axes.set_xlabel(f"{data.metric} × 100")
    axes.margins(x=0.06)
    handles = [
        axes.plot([], [], color=color, marker=marker, fillstyle=fill, ls="none")[0]
        for color, marker, fill in ((ISORANK, "o", "full"), (ISOPARAMETER, "s", "none"))
    ]
    below = -0.45 / (figure.get_size_inches()[1] * axes.get_position().height)
    axes.legend(
        handles, ["isorank", "isoparameter"], ncols=2, loc="upper left", bbox_to_anchor=(0, below), borderaxespad=0
    )
    return figure


def mark(axes: Axes, y: float, value: Estimate | None, color: str, marker: str, fill: str) -> None:
    """One estimate of a dot plot: its interval as a line, its mean as a mark."""
    if value is None:
        return
    if value.low is None or value.high is None:
        axes.plot(value.mean, y, color=color, marker=marker, fillstyle=fill, ls="none")
    else:
        axes.plot(
            [value.low, value.mean, value.high], [y] * 3, color=color, lw=1.1, solid_capstyle="butt",
            marker=marker, fillstyle=fill, markevery=[1],
        )  # fmt: skip

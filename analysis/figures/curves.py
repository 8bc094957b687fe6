"""Learning curves: the mean validation score after each epoch, with its 95 % interval as a band."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.curves import Curve
from analysis.figures.data import Curves
from analysis.figures.panels import panel_areas, panels_of
from analysis.figures.style import Look, label_beside, looks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(data: Curves) -> Figure:
    panels = panels_of([(curve.method, curve) for curve in data.curves])
    figure, areas = panel_areas(panels)
    styles = looks([curve.method for curve in data.curves])
    for axes, (_, curves) in zip(areas, panels, strict=True):
        _panel(axes, [curve for _, curve in curves], styles)
        axes.set_ylabel(f"validation {data.metric} × 100")
        axes.set_xlabel("epoch")
    return figure


def _panel(axes: Axes, curves: list[Curve], styles: dict[str, Look]) -> None:
    from matplotlib.ticker import MaxNLocator

    marks = []
    for curve in curves:
        look = styles[curve.method]
        values = [value.scaled(100) for value in curve.values]
        means = [value.value for value in values]
        one = len(means) == 1  # a curve of one epoch is a point
        axes.plot(curve.epochs, means, color=look.color, ls=look.dash, marker=look.marker if one else "")
        low, high = (
            [getattr(value.interval, end) if value.interval else value.value for value in values]
            for end in ("low", "high")
        )
        if one and low != high:
            axes.plot([*curve.epochs] * 2, [low[0], high[0]], color=look.color, lw=0.8, alpha=0.6)
        elif low != high:
            axes.fill_between(curve.epochs, low, high, color=look.color, alpha=0.1, lw=0)
        marks.append((curve.epochs[-1], means[-1], curve.method, look.color))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.margins(x=0.02, y=0.05)
    label_beside(axes, marks)

"""Score against rank or learning rate: one line for each method over a logarithmic axis."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from analysis.figures.data import Lines
from analysis.figures.panels import panel_areas, panels_of
from analysis.figures.style import label_beside, looks
from analysis.model import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(data: Lines) -> Figure:
    from matplotlib.ticker import FixedLocator, NullLocator

    panels = panels_of(data.lines)
    figure, areas = panel_areas(panels, lines_below=2 if data.chosen else 1)
    ticks = _apart(sorted({x for _, points in data.lines for x, _ in points}), 0.13 if len(panels) == 1 else 0.2)
    for axes, (_, lines) in zip(areas, panels, strict=True):
        _panel(axes, data, lines)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: _number(value))
        axes.set_xlabel(data.axis + ("\nringed: the chosen setting" if data.chosen else ""))
        axes.set_ylabel(f"{data.metric} × 100")
    return figure


def _panel(axes: Axes, data: Lines, lines: list[tuple[str, tuple[tuple[float, Estimate], ...]]]) -> None:
    styles, chosen = looks([method for method, _ in data.lines]), dict(data.chosen)
    marks, rings = [], []
    for index, (method, points) in enumerate(lines):
        look = styles[method]
        shift = 1 + 0.012 * (index - (len(lines) - 1) / 2)  # keeps intervals at one x side by side
        xs = [x * shift for x, _ in points]
        ys = [value.value for _, value in points]
        axes.plot(xs, ys, ls=look.dash, **look.point)
        spans = [(x, v.interval.low, v.interval.high) for x, (_, v) in zip(xs, points, strict=True) if v.interval]
        if spans:
            axes.vlines(*zip(*spans, strict=True), color=look.color, lw=0.8, alpha=0.6)
        rings += [(x, v.value, look.color) for x, (at, v) in zip(xs, points, strict=True) if chosen.get(method) == at]
        marks.append((xs[-1], ys[-1], method, look.color))
    if rings:
        ring_xs, ring_ys, colors = zip(*rings, strict=True)
        axes.scatter(ring_xs, ring_ys, s=80, facecolors="none", edgecolors=colors, linewidths=0.8)
    axes.set_xscale("log")
    axes.margins(x=0.06, y=0.06)
    label_beside(axes, marks)


def _apart(ticks: list[float], least: float) -> list[float]:
    """The ticks with room for their labels, at least `least` of the axis apart."""
    width = log(ticks[-1] / ticks[0]) or 1.0
    kept: list[float] = []
    for tick in ticks:
        if not kept or log(tick / kept[-1]) / width >= least:
            kept.append(tick)
    return kept


def _number(value: float) -> str:
    """4, 0.002, 5e−5."""
    text = f"{value:.3g}"
    return text.replace("e-0", "e−").replace("e-", "e−").replace("e+0", "e")

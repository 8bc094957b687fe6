"""Adapter parameters against score, with intervals and the Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures.data import Parameters
from analysis.figures.style import INK, Margins, canvas, height_for, label_beside, looks, text_inches

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELS = 12  # with more, isoparameter points are marked but not labelled


def draw(data: Parameters) -> Figure:
    """Isorank conditions are joined and labelled; isoparameter conditions, all at one budget, are small marks."""
    named = [p for p in data.points if p.kind == "isorank"] or list(data.points)
    places = {(p.method, p.parameters, p.score) for p in named}
    beside = [p for p in data.points if (p.method, p.parameters, p.score) not in places]  # LoRA's runs coincide
    methods = list(dict.fromkeys(p.method for p in named))
    labels = {p: f"{p.method}, isoparameter" for p in beside if len(methods) + len(beside) <= MOST_LABELS}
    margins = Margins(right=0.4 + text_inches([*methods, *labels.values()]), bottom=0.68 if beside else 0.5)
    figure, axes = canvas(4.6, height_for(len(methods) + len(labels), 3.0), margins)
    styles = looks([p.method for p in data.points])
    marks = []
    for method in methods:
        points = sorted((p for p in named if p.method == method), key=lambda p: p.parameters)
        look = styles[method]
        spans = [(p.parameters, i.low, i.high) for p in points if (i := p.score.interval)]
        if spans:
            axes.vlines(*zip(*spans, strict=True), color=look.color, lw=0.9, alpha=0.6)
        xs, ys = [p.parameters for p in points], [p.score.value for p in points]
        axes.plot(xs, ys, ls=look.dash, lw=0.8, **look.point)
        marks.append((xs[-1], ys[-1], method, look.color))
    for point in beside:
        look = styles[point.method]
        axes.plot(point.parameters, point.score.value, ms=3, **look.point)
        if point in labels:
            marks.append((point.parameters, point.score.value, labels[point], look.color))
    axes.step([x for x, _ in data.front], [y for _, y in data.front], where="post", color=INK, lw=2.2, alpha=0.25)
    axes.set_xscale("log")
    axes.set_xlabel("adapter parameters" + ("\nsmall marks: isoparameter, without intervals" if beside else ""))
    axes.set_ylabel(f"{data.metric} × 100")
    axes.margins(x=0.08, y=0.06)
    parameter_ticks(axes, [p.parameters for p in data.points])
    label_beside(axes, marks)
    return figure


def parameter_ticks(axes: Axes, counts: list[int]) -> None:
    """Set ticks at 1, 2 and 5 × powers of ten, or at the two ends of the data if the axis contains none of those."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_xlim()
    power = [base * 10**exponent for exponent in range(1, 13) for base in (1, 2, 5)]
    inside = [tick for tick in power if low <= tick <= high]
    if len(inside) > 7:
        inside = [tick for tick in inside if str(tick)[0] == "1"]
    if len(inside) < 2:
        inside = sorted({min(counts), max(counts)}) if max(counts) > 1.5 * min(counts) else [max(counts)]
    axes.xaxis.set_major_locator(FixedLocator(inside))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(round(value))))


def short_count(count: int) -> str:
    """4,608 as '4.6k', 1,200,000 as '1.2M'."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)

"""The critical-difference diagram (Demšar 2006): mean ranks, with bars joining indistinguishable methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.figures.data import CriticalDifference
from analysis.figures.style import INK, ROW_INCHES, Margins, canvas, looks, text_inches

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(data: CriticalDifference) -> Figure:
    ordered, bars = data.ranks, data.groups
    labels = [f"{method} ({rank:.2f})" for method, rank in ordered]
    left = labels[: -(-len(labels) // 2)]  # the better half is labelled on the left
    step = 1.0
    depth = (len(left) + 1.5) * step + len(bars) * 0.45
    margins = Margins(
        left=0.5 + text_inches(left), right=0.5 + text_inches(labels[len(left) :] or [""]), bottom=0.1, top=0.55
    )
    width = 4.4
    figure, axes = canvas(width, max(0.5, depth * ROW_INCHES), margins)
    styles = looks([method for method, _ in data.ranks])
    count = max(2, len(ordered))
    axes.set_xlim(0.8, count + 0.2)
    axes.set_ylim(-depth, 0)
    axes.axis("off")
    axes.plot([1, count], [0, 0], color=INK, lw=1, clip_on=False)
    every = max(1, -(-count // 15))
    for tick in range(1, count + 1):
        axes.plot([tick, tick], [0, 0.35], color=INK, lw=0.8, clip_on=False)
        if (tick - 1) % every == 0:
            axes.annotate(
                str(tick), (tick, 0.35), xytext=(0, 2), textcoords="offset points", ha="center", va="bottom",
                annotation_clip=False,
            )  # fmt: skip
    if data.difference <= count - 1:
        axes.annotate(
            f"critical difference {data.difference:.2f}", (0, 1), xytext=(0, 30), xycoords="axes fraction",
            textcoords="offset points", ha="left", va="bottom",
        )  # fmt: skip
    reach = 0.3 * (count - 0.6) / width  # how far a line extends beyond the scale, in ranks
    below = 0.5 + len(bars) * 0.45
    for index, (method, rank) in enumerate(ordered):
        is_left = index < len(left)
        place = index if is_left else len(ordered) - 1 - index
        y = -(below + 1 + place * step)
        edge = 0.8 - reach if is_left else count + 0.2 + reach
        color = styles[method].color
        axes.plot([rank, rank, edge], [0, y, y], color=color, lw=0.8, clip_on=False)
        axes.annotate(
            labels[index], (edge, y), xytext=(-4 if is_left else 4, 0), textcoords="offset points",
            ha="right" if is_left else "left", va="center", annotation_clip=False,
        )  # fmt: skip
    for index, (best, worst) in enumerate(bars):
        y = -(0.5 + index * 0.45)
        axes.plot([best - 0.05, worst + 0.05], [y, y], color=INK, lw=2.4, solid_capstyle="butt", clip_on=False)
    return figure

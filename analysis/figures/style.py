"""The look of the figures: a colour, marker and dash for each method, and a canvas measured in inches.

The colours are Okabe and Ito's, which colour-blind readers can distinguish (Wong 2011, doi:10.1038/nmeth.1618). In
greyscale, markers, dashes and labels carry the same information. Text never covers the data area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.model import Estimate
from tensloradist.factorizations import DEFAULT_FACTORIZATION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The page replaces these two with its own colours, light or dark.
INK, GRID = "#101418", "#c9ced4"
FONT_POINTS = 8.5
ROW_INCHES = 0.19  # the height of one row of a dot plot
HEAD_INCHES = 0.42  # room for the title's two lines above the data areas

GROUPINGS = {  # colour, marker
    "lora": (INK, "o"),
    "att": ("#0072b2", "s"),
    "qkv": ("#d55e00", "^"),
    "depth": ("#009e73", "D"),
    "att_qkv": ("#cc79a7", "v"),
    "att_depth": ("#e69f00", "P"),
    "qkv_depth": ("#56b4e9", "X"),
    "att_qkv_depth": ("#8c6d31", "*"),
}
OTHER = ("#7a828a", "h")  # head-only training, full fine-tuning, plugins
Dash = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dash, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
FILLS = ("full", "none", "left", "bottom")


@dataclass(frozen=True)
class Look:
    """The look of one method: colour and marker show its grouping, dash and fill its factorisation."""

    color: str
    marker: str
    dash: Dash
    fill: str

    @property
    def point(self) -> dict[str, Any]:
        """matplotlib's arguments for a marker."""
        return {"color": self.color, "marker": self.marker, "fillstyle": self.fill}


def looks(methods: Sequence[str]) -> dict[str, Look]:
    """A look for each method ('qkv_depth tucker'). Methods of one grouping differ in dash and fill."""
    names = {variant_of(method) for method in methods if " " in method}
    variants = sorted(names, key=lambda variant: (variant != DEFAULT_FACTORIZATION, variant))
    chosen = {}
    for method in methods:
        color, marker = GROUPINGS.get(method.split()[0], OTHER)
        index = variants.index(variant_of(method)) if " " in method else 0
        chosen[method] = Look(color, marker, DASHES[index % len(DASHES)], FILLS[index % len(FILLS)])
    return chosen


def variant_of(method: str) -> str:
    """The part of a method's name after the grouping: its factorisation and options."""
    return method.partition(" ")[2]


def settings() -> dict[Any, Any]:
    """matplotlib's settings for every figure: readable text in the SVG, and the same bytes every time."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "tensloradist",
        "font.family": ["DejaVu Sans", "sans-serif"],
        "font.size": FONT_POINTS,
        "axes.facecolor": "none",  # the page's own background
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.grid": True,
        "axes.grid.axis": "both",
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titley": 1.0,  # explicit, so that matplotlib does not search for it
        "axes.titlesize": FONT_POINTS + 1,
        "axes.unicode_minus": True,
        "axes.formatter.useoffset": False,
        "text.color": INK,
        "text.parse_math": False,  # a method's name is not mathematics
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": GRID,
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.3,
        "lines.markersize": 5,
        "legend.frameon": False,
        "savefig.dpi": 144,
    }


def text_inches(texts: Sequence[str]) -> float:
    """The width of the widest text, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=["DejaVu Sans"], size=FONT_POINTS)
    widths = (text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] for text in texts)
    return max(widths, default=0.0) / 72


@dataclass(frozen=True)
class Margins:
    """Inches around the data area."""

    left: float = 0.6
    right: float = 0.15
    bottom: float = 0.5
    top: float = 0.12


def canvas(width: float, height: float, margins: Margins) -> tuple[Figure, Axes]:
    """A figure with one data area of the given size in inches."""
    figure, axes = canvases(width, height, margins, columns=1, rows=1)
    return figure, axes[0]


def canvases(
    width: float, height: float, margins: Margins, columns: int, rows: int, share_rows: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of equal data areas and their margins.

    Args:
        share_rows: all areas of a row share the y axis of the first, and only that one has a left margin.
    """
    from matplotlib.figure import Figure

    gap = 0.3 if share_rows else margins.left
    total_width = margins.left + (columns - 1) * gap + columns * (width + margins.right)
    total_height = HEAD_INCHES + rows * (margins.top + height + margins.bottom)
    figure = Figure(figsize=(total_width, total_height))
    areas: list[Axes] = []
    for row in range(rows):
        for column in range(columns):
            x = margins.left + column * (width + margins.right + gap)
            y = total_height - HEAD_INCHES - (row + 1) * (margins.top + height + margins.bottom) + margins.bottom
            box = (x / total_width, y / total_height, width / total_width, height / total_height)
            areas.append(figure.add_axes(box, sharey=areas[0] if share_rows and areas else None))
    return figure, areas


def height_for(labels: int, least: float = 2.4) -> float:
    """The height in inches of a data area with this many labels beside it."""
    return max(least, labels * ROW_INCHES)


def spread(positions: Sequence[float], step: float, low: float, high: float) -> list[float]:
    """Label positions in the order of the given ones, at least `step` apart, and within [low, high] if they fit."""
    order = sorted(range(len(positions)), key=lambda i: (positions[i], i))
    placed = [min(max(positions[i], low), high) for i in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + step)
    limit = high
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - step
    result = [0.0] * len(placed)
    for rank, index in enumerate(order):
        result[index] = placed[rank]
    return result


def label_beside(axes: Axes, marks: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names in a column right of the data area, each joined to its mark (x, y, name, colour) by a thin line.

    Call this when the axes' limits are final. The right margin must hold the names plus 0.35 inches.
    """
    from matplotlib.collections import LineCollection

    if not marks:
        return
    axes.set_xlim(axes.get_xlim())  # until queried, limits are those of an empty figure
    axes.set_ylim(axes.get_ylim())
    inches_wide, inches_high = axes.bbox.width / axes.figure.dpi, axes.bbox.height / axes.figure.dpi
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [tuple(to_axes.transform((x, y))) for x, y, _, _ in marks]
    step = ROW_INCHES * 0.97 / inches_high
    places = spread([y for _, y in ends], step, 0.0, 1.0)
    elbow, begin = 1 + 0.08 / inches_wide, 1 + 0.24 / inches_wide
    lines = [[(x, y), (elbow, y), (begin, place)] for (x, y), place in zip(ends, places, strict=True)]
    colors = [color for *_, color in marks]
    leaders = LineCollection(lines, colors=colors, lw=0.5, alpha=0.55, transform=axes.transAxes, clip_on=False)
    axes.add_collection(leaders, autolim=False)
    for place, (_, _, name, _) in zip(places, marks, strict=True):
        axes.text(begin + 0.05 / inches_wide, place, name, transform=axes.transAxes, va="center", ha="left")


def entitle(figure: Figure, title: str, subtitle: str) -> None:
    """Write the title and, below it, the task, backbone and condition at the top left."""
    width, height = figure.get_size_inches()
    size = FONT_POINTS + 1
    figure.text(0.1 / width, 1 - 0.06 / height, title, va="top", weight="bold", size=size)
    figure.text(0.1 / width, 1 - 0.24 / height, subtitle, va="top")


def mark(axes: Axes, y: float, value: Estimate | None, look: Look) -> None:
    """Draw one estimate of a dot plot: its interval as a line, its value as a marker."""
    if value is None:
        return
    if value.interval is None:
        axes.plot(value.value, y, ls="none", **look.point)
    else:
        ends = [value.interval.low, value.value, value.interval.high]
        axes.plot(ends, [y] * 3, lw=1.1, solid_capstyle="butt", markevery=[1], **look.point)


def rows_of(axes: Axes, names: Sequence[str]) -> None:
    """Turn the y axis into a list of names, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)

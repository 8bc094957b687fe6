"""Panels: all lines in one data area, or one area per grouping if many methods would hide each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from analysis.figures.style import GROUPINGS, Margins, canvases, height_for, text_inches

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOGETHER = 8  # with more methods, each grouping has its own panel, and LoRA is in every panel
T = TypeVar("T")


def panels_of(lines: Sequence[tuple[str, T]]) -> list[tuple[str, list[tuple[str, T]]]]:
    """The (title, lines) of each panel; a line is a method's name and its data."""
    if len(lines) <= TOGETHER:
        return [("", list(lines))]
    lora = [line for line in lines if line[0].split()[0] == "lora"]
    groups: dict[str, list[tuple[str, T]]] = {}
    for line in lines:
        grouping = line[0].split()[0]
        if grouping != "lora":
            groups.setdefault(grouping if grouping in GROUPINGS else "others", []).append(line)
    return [(name, [*lora, *group]) for name, group in groups.items()] or [("", lora)]


def panel_areas(panels: Sequence[tuple[str, list[tuple[str, T]]]], lines_below: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with a data area for each panel, and room beside it for the method names."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    alone = len(panels) == 1
    names = [method for _, lines in panels for method, _ in lines]
    margins = Margins(
        left=0.65, right=0.4 + text_inches(names), bottom=0.34 + 0.17 * lines_below, top=0.12 if alone else 0.3
    )
    tallest = max(len(lines) for _, lines in panels)
    size = (4.2, height_for(tallest, 2.7)) if alone else (2.5, height_for(tallest, 1.7))
    figure, areas = canvases(*size, margins, columns, rows)
    for axes, (title, _) in zip(areas, panels, strict=False):
        axes.set_title(title)
    for axes in areas[len(panels) :]:
        axes.remove()
    return figure, areas[: len(panels)]

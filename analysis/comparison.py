"""Two methods compared in every cell, or one method between two conditions, paired by seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.differences import Pairing, compared, pair
from analysis.model import Analysis, Block, Cell, Paired

Place = tuple[str, str | None, str]  # backbone, condition, task
Sides = tuple[Cell | None, Cell | None]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference first − second in one cell; without one, `why_not` gives the reason."""

    backbone: str
    condition: str | None  # None: the comparison is between two conditions
    task: str
    metric: str
    means: tuple[float | None, float | None]
    difference: Paired | None
    why_not: str | None = None


def compare_methods(analysis: Analysis, first: str, second: str) -> list[Comparison]:
    """First − second in every cell for which either is planned, with Holm's correction over these cells."""
    places = [
        (
            (block.backbone, block.condition.name, task),
            block,
            (_planned(block, first, task), _planned(block, second, task)),
        )
        for block in analysis.blocks
        if {first, second} & {row.name for row in block.rows}
        for task in block.tasks
    ]
    return _compared(analysis, places, (first, second), "{} not planned here or refused")


def compare_conditions(analysis: Analysis, method: str, first: str, second: str) -> list[Comparison]:
    """One method under the first condition − under the second, on every backbone and task.

    Holm's correction covers all of these comparisons.

    Args:
        method, first, second: names of a row and of two conditions.
    """
    blocks = {(block.backbone, block.condition.name): block for block in analysis.blocks}
    places = []
    for backbone in dict.fromkeys(block.backbone for block in analysis.blocks):
        one, two = (blocks.get((backbone, condition)) for condition in (first, second))
        for task in dict.fromkeys(task for block in (one, two) if block for task in block.tasks):
            block = next(block for block in (one, two) if block and task in block.tasks)
            places.append(((backbone, None, task), block, (_planned(one, method, task), _planned(two, method, task))))
    return _compared(analysis, places, (first, second), "not planned under {} or refused")


def _compared(
    analysis: Analysis,
    places: Sequence[tuple[Place, Block, Sides]],
    names: tuple[str, str],
    missing: str,
) -> list[Comparison]:
    """The comparison of two cells at each place, in order.

    Args:
        missing: the reason for a missing comparison, with {} for the names of the sides without a cell.
    """
    comparisons: dict[Place, Comparison] = {}
    pairings: dict[Place, Pairing] = {}
    for place, block, (one, two) in places:
        why: str | None
        if one is None or two is None:
            why = missing.format(" and ".join(n for n, cell in zip(names, (one, two), strict=True) if cell is None))
        elif one.run_ids == two.run_ids:
            why = "both conditions share the same runs"
        else:
            pairings[place] = pair(one, two, analysis.runs, names)
            why = pairings[place].why_not
        backbone, condition, task = place
        comparisons[place] = Comparison(
            backbone=backbone,
            condition=condition,
            task=task,
            metric=block.metrics[task],
            means=(None if one is None else one.mean, None if two is None else two.mean),
            difference=None,
            why_not=why,
        )
    differences = compared(pairings, analysis.margin)
    return [replace(one, difference=differences.get(place)) for place, one in comparisons.items()]


def _planned(block: Block | None, method: str, task: str) -> Cell | None:
    """The cell of a method; None if no runs are planned for it or its row is refused."""
    row = None if block is None else next((row for row in block.rows if row.name == method), None)
    cell = None if row is None else row.cells.get(task)
    return cell if cell is not None and cell.planned else None

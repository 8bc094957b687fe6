"""Two methods compared in every cell, or one method between two conditions, paired by seed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.analyse import Analysis
from analysis.pairing import Pairing, compared, pair
from analysis.statistics.paired import Paired
from analysis.tables import Block, Cell


@dataclass(frozen=True)
class Comparison:
    """The difference first − second in one cell; `why_not` says why there is none."""

    backbone: str
    condition: str | None  # None: it is between two conditions
    task: str
    metric: str
    means: tuple[float | None, float | None]
    difference: Paired | None
    why_not: str | None = None


def compare_methods(analysis: Analysis, first: str, second: str) -> list[Comparison]:
    """First − second wherever either is planned; Holm's p is over the cells compared."""
    found: dict[tuple[str, str, str], Comparison] = {}
    pairings: dict[tuple[str, str, str], Pairing] = {}
    for block in analysis.blocks:
        rows = {row.name: row for row in block.rows}
        if first not in rows and second not in rows:
            continue
        for task in block.tasks:
            one, two = (_planned(block, name, task) for name in (first, second))
            place = (block.backbone, block.condition.name, task)
            why = None
            if one is None or two is None:
                missing = [name for name, cell in ((first, one), (second, two)) if cell is None]
                why = f"{' and '.join(missing)} not planned here, or refused"
            else:
                pairings[place] = pair(one, two, analysis.runs, (first, second))
                why = pairings[place].why_not
            means = (None if one is None else one.mean, None if two is None else two.mean)
            found[place] = Comparison(*place, block.metrics[task], means, None, why)
    differences = compared(pairings, analysis.margin)
    return [replace(one, difference=differences.get(place)) for place, one in found.items()]


def compare_conditions(analysis: Analysis, method: str, first: str, second: str) -> list[Comparison]:
    """One method under the first condition − under the second, on every backbone and task; Holm's p is over these.

    Args:
        method, first, second: names of a row and of two conditions.
    """
    found: dict[tuple[str, str], Comparison] = {}
    pairings: dict[tuple[str, str], Pairing] = {}
    blocks = {(block.backbone, block.condition.name): block for block in analysis.blocks}
    for backbone in dict.fromkeys(block.backbone for block in analysis.blocks):
        both = [blocks.get((backbone, condition)) for condition in (first, second)]
        for task in dict.fromkeys(task for block in both if block for task in block.tasks):
            one, two = (_planned(block, method, task) for block in both)
            why = None
            if one is None or two is None:
                missing = [condition for condition, cell in ((first, one), (second, two)) if cell is None]
                why = f"not planned under {' and '.join(missing)}, or refused"
            elif one.run_ids == two.run_ids:
                why = "the runs of both conditions are the same"
            else:
                pairings[backbone, task] = pair(one, two, analysis.runs, (first, second))
                why = pairings[backbone, task].why_not
            means = (None if one is None else one.mean, None if two is None else two.mean)
            metric = next(block.metrics[task] for block in both if block and task in block.tasks)
            found[backbone, task] = Comparison(backbone, None, task, metric, means, None, why)
    differences = compared(pairings, analysis.margin)
    return [replace(one, difference=differences.get(place)) for place, one in found.items()]


def _planned(block: Block | None, method: str, task: str) -> Cell | None:
    """A method's cell, where runs are planned for it and its row is not refused."""
    row = None if block is None else next((row for row in block.rows if row.name == method), None)
    cell = None if row is None else row.cells.get(task)
    return cell if cell is not None and cell.planned else None

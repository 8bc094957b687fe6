"""Plan the figures of an analysis: which there are, and the data of each. Nothing is drawn here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from analysis.costs import costs_of, pareto_front
from analysis.curves import read_curves
from analysis.figures.data import (
    Costs,
    CriticalDifference,
    Curves,
    Data,
    Drawing,
    Forest,
    Lines,
    Pairs,
    Parameters,
    Point,
)
from analysis.model import Analysis, Block, Cell, Estimate, Overall
from analysis.render import text
from tensloradist.names import file_name


@dataclass(frozen=True)
class Planned:
    """The figures, and a sentence for each one that cannot be drawn."""

    drawings: list[Drawing]
    absent: list[str]


def plan_figures(analysis: Analysis) -> Planned:
    """All figures that the results allow."""
    drawings: list[Drawing] = []
    absent: list[str] = []
    for backbone in dict.fromkeys(block.backbone for block in analysis.blocks):
        blocks = [block for block in analysis.blocks if block.backbone == backbone]
        for task in dict.fromkeys(task for block in blocks for task in block.tasks):
            own = [block for block in blocks if task in block.tasks]
            drawings += _of_task(backbone, task, own)
            costs, why = costs_of(own, task)
            if costs:
                caption = "Medians over runs on the same hardware; lines span the smallest to the largest value."
                title = "Step time and memory by method"
                drawings.append(_drawing("cost", title, caption, Costs(costs), backbone, task))
            elif why:
                absent.append(f"{task}, {backbone}: no figure of step times, because they are not comparable: {why}.")
            for block in own:
                drawings += _of_condition(block, task, analysis, absent)
    for overall in analysis.overall:
        drawings += _ranking(overall)
    return Planned(drawings, absent)


def _of_task(backbone: str, task: str, blocks: list[Block]) -> Iterator[Drawing]:
    """Figures over all conditions. Conditions of one kind, such as balanced and spectral ranks, are never merged."""
    series: dict[str, list[Block]] = {}
    for block in sorted(blocks, key=lambda block: block.condition.kind != "isorank"):
        series.setdefault(text.series(block.condition), []).append(block)
    isorank = series.get("isorank", [])
    budgets = {name: own for name, own in series.items() if own is not isorank}
    if len(budgets) < 2:
        yield from _parameters(backbone, task, blocks, "")
    else:
        for name, own in budgets.items():
            yield from _parameters(backbone, task, [*isorank, *own], name)
    for rank in sorted({block.condition.rank for block in blocks}):
        at_rank = {name: b for name, own in series.items() for b in own if b.condition.rank == rank}
        yield from _side_by_side(backbone, task, at_rank, rank)
    for name, own in series.items():
        yield from _over_ranks(backbone, task, own, name)


def _parameters(backbone: str, task: str, blocks: list[Block], name: str) -> Iterator[Drawing]:
    cells = [(block.condition, row, cell) for block in blocks for row, _, cell in block.cells(task)]
    points = tuple(
        Point(method=row.name, condition=condition.name, kind=condition.kind, parameters=row.parameters, score=estimate)
        for condition, row, cell in cells
        if (estimate := _score(cell)) is not None and not row.is_reference
    )
    if points:
        which = "Isorank, with" if any(point.kind == "isorank" for point in points) else "With"
        caption = (
            f"{which} 95 % intervals; a line joins each method's ranks. Grey steps: the Pareto front, on which no "
            "complete method scores higher with as few parameters."
        )
        complete = [(row.parameters, cell) for _, row, cell in cells if row.is_ranked and cell.is_complete]
        front = pareto_front((count, score.value) for count, cell in complete if (score := _score(cell)) is not None)
        data = Parameters(blocks[0].metrics[task], points, front)
        yield _drawing("parameters", "Parameters against score", caption, data, backbone, task, name)


def _side_by_side(backbone: str, task: str, blocks: dict[str, Block], rank: int) -> Iterator[Drawing]:
    """The conditions of one rank, named without the rank."""
    scores = [{row.name: _score(cell) for row, _, cell in block.cells(task)} for block in blocks.values()]
    names = dict.fromkeys(row.name for block in blocks.values() for row in block.rows)
    rows = tuple((name, tuple(of.get(name) for of in scores)) for name in names)
    rows = tuple((name, estimates) for name, estimates in rows if any(estimates))
    if len(blocks) < 2 or not rows:
        return
    budget = f"the parameter budget of LoRA at rank {rank}"
    what = f"Rank {rank} compared with {budget}" if "isorank" in blocks else f"At {budget}"
    two = list(blocks) == ["isorank", "isoparameter"]
    title = "Isorank and isoparameter side by side" if two else "Conditions side by side"
    data = Pairs(next(iter(blocks.values())).metrics[task], tuple(blocks), rows)
    caption = f"{what}, with 95 % intervals. Dashed line: LoRA."
    yield _drawing("pairs", title, caption, data, backbone, task, f"r={rank}")


def _over_ranks(backbone: str, task: str, blocks: list[Block], name: str) -> Iterator[Drawing]:
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for block in sorted(blocks, key=lambda block: block.condition.rank):
        for row, _, cell in block.cells(task):
            if (estimate := _score(cell)) is not None and not row.is_reference:
                lines.setdefault(row.name, []).append((block.condition.rank, estimate))
    if any(len(points) > 1 for points in lines.values()):
        axis = "rank" if name == "isorank" else "rank of the LoRA that sets the budget"
        data = Lines(blocks[0].metrics[task], axis, tuple((row, tuple(points)) for row, points in lines.items()))
        yield _drawing("rank", "Score against rank", "With 95 % intervals.", data, backbone, task, name)


def _of_condition(block: Block, task: str, analysis: Analysis, absent: list[str]) -> Iterator[Drawing]:
    cells = [(row.name, cell) for row, _, cell in block.cells(task)]
    name = block.condition.name
    rows = tuple(
        (method, cell.difference.estimate.scaled(100) if cell.difference else None, text.difference(cell))
        for method, cell in cells
        if cell.difference is not None or cell.is_unpaired
    )
    if rows:
        caption = f"Paired by seed, with 95 % intervals. Shaded: practically equivalent (± {100 * analysis.margin:g})."
        forest = Forest(rows, 100 * analysis.margin)
        yield _drawing("differences", "Paired differences to LoRA", caption, forest, block.backbone, task, name)
    curves, why = read_curves(analysis, cells, block.metrics[task])
    if curves:
        caption = "Mean over seeds of the chosen setting; bands are 95 % t intervals."
        data = Curves(block.metrics[task], curves)
        yield _drawing("curves", "Learning curves", caption, data, block.backbone, task, name)
    absent += [f"{task}, {block.backbone}, {name}: {reason}." for reason in why]
    yield from _over_rates(block, task)


def _over_rates(block: Block, task: str) -> Iterator[Drawing]:
    axis = "learning_rate"
    chosen = {row.name: cell.choice for row, _, cell in block.cells(task) if cell.choice is not None}
    if len({setting.values.get(axis) for choice in chosen.values() for setting in choice.tried}) < 2:
        return
    lines = tuple(
        (method, tuple((rate, Estimate(100 * score)) for rate, score in best.items()))
        for method, choice in chosen.items()
        if (best := choice.best_by(axis))
    )
    if lines:
        choices = {method: chosen[method] for method, _ in lines}
        rings = tuple((m, float(c.chosen[axis])) for m, c in choices.items() if not c.why_not_chosen)
        caption = (
            "Mean validation score over the seeds common to all settings, without diverged runs. It decides between "
            "the settings with the fewest diverged runs."
        )
        data = Lines(f"validation {block.metrics[task]}", "learning rate", lines, rings)
        title = "Score against learning rate"
        yield _drawing(axis, title, caption, data, block.backbone, task, block.condition.name)


def _ranking(overall: Overall) -> Iterator[Drawing]:
    if overall.ranks is not None:
        ranks = overall.ranks
        ranked = tuple(sorted(zip(ranks.names, ranks.mean_ranks, strict=True), key=lambda item: (item[1], item[0])))
        data = CriticalDifference(ranked, ranks.critical_difference, ranks.groups)
        caption = (
            f"Mean ranks over {ranks.blocks} data sets; 1 is best. Bars join methods that the Nemenyi test cannot "
            f"distinguish. The critical difference is {100 * ranks.share:.0f} % of the possible range of ranks."
        )
        yield _drawing(
            "ranking", "Mean ranks and their critical difference", caption, data, overall.backbone, "",
            overall.condition.name,
        )  # fmt: skip


def _score(cell: Cell) -> Estimate | None:
    return None if cell.estimate is None else cell.estimate.scaled(100)


def _drawing(kind: str, title: str, caption: str, data: Data, backbone: str, task: str, condition: str = "") -> Drawing:
    where = [part for part in (task, backbone, condition) if part]
    name = file_name([kind, *where], lambda name: _parts(kind, name, bool(task)))
    return Drawing(
        kind=kind, name=name, title=title, subtitle=", ".join(where), caption=caption, backbone=backbone, task=task,
        data=data,
    )  # fmt: skip


def _parts(kind: str, name: str, has_task: bool) -> list[str] | None:
    """The parts that a figure's name reads as: a task has no underscores, and a condition has spaces."""
    match = re.fullmatch(
        rf"{kind}_{'([^_]+)_' if has_task else '()'}(.+?)(?:_((?:isorank|isoparameter|r=\d).*))?", name
    )
    if match is None:
        return None
    task, backbone, condition = match.groups()
    return [kind, *([task] if has_task else []), backbone, *([condition.replace("_", " ")] if condition else [])]

"""The isorank and isoparameter tables: a block for each backbone and condition, rows methods, columns tasks.

Cells are honest: what failed, diverged or is missing is counted and shown, nothing incomplete is bold, a row beyond
its budget is shown with its residual and never bold, an isorank row of other ranks is refused. The references `head`
and `full` are rows that are shown, but neither bold nor tested: they frame the comparison and are not part of it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import Loaded
from analysis.selection import CELL, Choice, select
from analysis.statistics.intervals import Interval, mean_intervals
from analysis.statistics.paired import MARGIN, Paired
from tensloradist.results.schema import Condition

GROUPING_ORDER = ("lora", "att", "qkv", "depth", "att_qkv", "att_depth", "qkv_depth", "att_qkv_depth")
REFERENCES = ("head", "full")  # methods that a normalised score is relative to
Runs = list[Any]  # named tuples of the frame's columns


@dataclass(frozen=True)
class Cell:
    """One method on one task under one condition. Scores are fractions, as in the results."""

    scores: dict[int, float]  # seed -> test score of finished runs
    planned: int
    other: Counter[str]  # states of the runs that have no score
    metric: str | None = None
    interval: Interval | None = None  # 95 %, of the mean
    difference: Paired | None = None
    no_difference: str | None = None  # why there is no paired difference
    best: bool = False
    choice: Choice | None = None
    step_seconds: float | None = None  # medians over seeds; not to be compared where Block.no_times says so
    peak_bytes: int | None = None
    run_ids: dict[int, str] = field(default_factory=dict)  # seed -> run, of all planned runs of the chosen setting
    without_score: dict[int, str] = field(default_factory=dict)  # seed -> 'diverged' or 'undefined score': it ended so

    @property
    def mean(self) -> float | None:
        return float(np.mean(list(self.scores.values()))) if self.scores else None

    @property
    def half_width(self) -> float | None:
        return None if self.interval is None else self.interval.half_width

    @property
    def is_complete(self) -> bool:
        return self.planned > 0 and len(self.scores) == self.planned


@dataclass(frozen=True)
class Row:
    """One method: its parameters, and a cell for each task."""

    name: str
    parameters: int
    residual: float
    ranks: str
    beyond_budget: bool
    refused: str | None
    cells: dict[str, Cell]
    method: str = ""
    grouping: str | None = None
    factorization: str | None = None

    @property
    def is_reference(self) -> bool:
        return self.method in REFERENCES

    @property
    def is_ranked(self) -> bool:
        """Whether it takes part in what is bold and in rankings."""
        return not (self.is_reference or self.beyond_budget or self.refused)


@dataclass(frozen=True)
class Block:
    """One backbone under one condition."""

    backbone: str
    condition: Condition
    tasks: tuple[str, ...]
    metrics: dict[str, str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    data_sets: dict[str, str] = field(default_factory=dict)  # task -> fingerprint of its data
    no_times: str | None = None  # why times must not be compared

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)


def build(loaded: Loaded, margin: float = MARGIN) -> list[Block]:
    """All blocks of the sweeps, in the order of their conditions.

    Args:
        margin: half the region of practical equivalence, in the unit of the scores.

    Raises:
        UserError: a cell has two runs of one seed and setting.
    """
    from analysis.differences import with_differences
    from analysis.notes import with_notes

    frame, choices = select(loaded.frame)
    chosen = {choice.cell: choice for choice in choices}
    groups: dict[tuple[str, ...], Runs] = defaultdict(list)
    for run in frame.rename(columns=lambda name: name.replace(".", "_")).itertuples(index=False):
        groups[tuple(getattr(run, name) for name in CELL)].append(run)
    blocks, runs_of = [], []
    for backbone in dict.fromkeys(key[0] for key in groups):
        for condition in loaded.conditions:
            mine = {
                (row, task): runs for (b, task, c, row), runs in groups.items() if (b, c) == (backbone, condition.name)
            }
            if mine:
                cells = {
                    key: _cell(runs, chosen.get((backbone, key[1], condition.name, key[0])))
                    for key, runs in mine.items()
                }
                blocks.append(_block(backbone, condition, mine, cells))
                runs_of.append(mine)
    blocks = _with_intervals(blocks)
    blocks = with_differences(blocks, runs_of, margin)
    return [with_notes(_with_best(block), runs, blocks) for block, runs in zip(blocks, runs_of, strict=True)]


def _order(row: str) -> tuple[int, str]:
    name = row.split()[0]
    if name in REFERENCES:
        return (REFERENCES.index(name) - len(REFERENCES), row)
    return (GROUPING_ORDER.index(name) if name in GROUPING_ORDER else len(GROUPING_ORDER), row)


def _block(
    backbone: str, condition: Condition, runs: dict[tuple[str, str], Runs], cells: dict[tuple[str, str], Cell]
) -> Block:
    tasks = tuple(dict.fromkeys(task for _, task in runs))
    rows = []
    for name in sorted({row for row, _ in runs}, key=_order):
        own = [run for task in tasks for run in runs.get((name, task), [])]
        first = max(own, key=lambda run: abs(run.residual))
        is_reference = first.method in REFERENCES
        refused = None
        if condition.kind == "isorank" and not is_reference and not all(run.all_ranks_equal for run in own):
            refused = (
                f"its ranks ({next(run.ranks for run in own if not run.all_ranks_equal)}) are not all {condition.rank}"
            )
        beyond = condition.tolerance is not None and abs(first.residual) > condition.tolerance and not is_reference
        nothing = Cell({}, 0, Counter())
        rows.append(
            Row(
                name,
                int(first.adapter_parameters),
                float(first.residual),
                _text(first.ranks) or "",
                beyond,
                refused,
                {} if refused else {task: cells.get((name, task), nothing) for task in tasks},
                first.method,
                _text(first.grouping),
                _text(first.factorization),
            )
        )
    sets = {task: next(run.data_set for (_, t), own in runs.items() if t == task for run in own) for task in tasks}
    return Block(backbone, condition, tasks, {task: _metric(cells, task) for task in tasks}, rows, data_sets=sets)


def _metric(cells: dict[tuple[str, str], Cell], task: str) -> str:
    return next((cell.metric for (_, t), cell in cells.items() if t == task and cell.metric), "score")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _cell(runs: Runs, choice: Choice | None) -> Cell:
    finished = sorted((r for r in runs if r.state == "finished" and not np.isnan(r.score)), key=lambda r: r.seed)
    states = Counter(run.state for run in runs)
    undefined = {int(r.seed): "undefined score" for r in runs if r.state == "finished" and np.isnan(r.score)}
    states.pop("finished", None)
    if undefined:
        states["undefined score"] = len(undefined)
    diverged = {int(run.seed): "diverged" for run in runs if run.state == "diverged"}
    return Cell(
        {int(run.seed): float(run.score) for run in finished},  # in this order, since sums round by order
        len(runs),
        states,
        next((run.metric for run in runs if isinstance(run.metric, str)), None),
        choice=choice,
        step_seconds=_median(run.step_seconds for run in finished),
        peak_bytes=None if (peak := _median(run.peak_bytes for run in finished)) is None else int(peak),
        run_ids={int(run.seed): run.run_id for run in sorted(runs, key=lambda r: r.seed)},
        without_score=diverged | undefined,
    )


def _median(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if not pd.isna(value)]
    return float(np.median(known)) if known else None


def mapped(block: Block, new: dict[tuple[str, str], Cell]) -> Block:
    """The block with some of its cells, by (row, task), replaced."""
    rows = [
        replace(row, cells={task: new.get((row.name, task), cell) for task, cell in row.cells.items()})
        for row in block.rows
    ]
    return replace(block, rows=rows)


def _with_intervals(blocks: list[Block]) -> list[Block]:
    """The intervals of all cells, computed at once."""
    places = [(i, row.name, task) for i, b in enumerate(blocks) for row in b.rows for task in row.cells]
    samples = [np.array(list(blocks[i].row(row).cells[task].scores.values())) for i, row, task in places]
    found: dict[int, dict[tuple[str, str], Cell]] = defaultdict(dict)
    for (i, row, task), interval in zip(places, mean_intervals(samples), strict=True):
        found[i][row, task] = replace(blocks[i].row(row).cells[task], interval=interval)
    return [mapped(block, found[i]) for i, block in enumerate(blocks)]


def _with_best(block: Block) -> Block:
    """Mark the best complete mean of each task within the budget; nothing is best among fewer than two."""
    new: dict[tuple[str, str], Cell] = {}
    for task in block.tasks:
        cells = {row.name: row.cells[task] for row in block.rows if row.is_ranked and row.cells[task].is_complete}
        if len(cells) > 1:
            top = max(mean for cell in cells.values() if (mean := cell.mean) is not None)
            new |= {(name, task): replace(cell, best=True) for name, cell in cells.items() if cell.mean == top}
    return mapped(block, new)

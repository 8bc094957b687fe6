"""Building the tables: a block for each backbone and condition, with methods as rows and tasks as columns.

Cells are honest: runs that failed, diverged or are missing are counted and shown, and incomplete cells are never bold.
A row beyond its budget is shown with its residual but never bold, and an isorank row with unequal ranks is refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.differences import with_differences
from analysis.model import CELL, Analysis, Block, Cell, Choice, Estimate, Loaded, Row, Runs
from analysis.notes import with_notes
from analysis.overall import build_overall
from analysis.selection import select
from analysis.statistics.intervals import mean_intervals
from analysis.statistics.paired import MARGIN
from tensloradist.modes import GROUPINGS
from tensloradist.results.schema import Condition
from tensloradist.spec import REFERENCES
from tensloradist.wording import counted

ROW_ORDER = ("head", "full", "lora", *GROUPINGS)  # others come last


def analyse(loaded: Loaded, margin: float = MARGIN) -> Analysis:
    """Analyse loaded sweeps. Reads and writes no files.

    Args:
        margin: half the region of practical equivalence, in the unit of the scores.

    Raises:
        UserError: a cell has two runs of one seed and setting.
    """
    blocks = build(loaded, margin)
    overall = build_overall(blocks)
    return Analysis(loaded=loaded, blocks=blocks, overall=overall, warnings=_warnings(loaded), margin=margin)


def _warnings(loaded: Loaded) -> list[str]:
    warnings = [*loaded.warnings, *loaded.left_out()]
    runs = loaded.frame.drop_duplicates("run_id")
    finished, total = int((runs["state"] == "finished").sum()), len(runs)
    if finished == 0:
        warnings.append(f"None of {counted(total, 'run')} has finished, so there is no conclusion yet.")
    elif finished < total:
        verb = "has" if finished == 1 else "have"
        warnings.append(f"{finished} of {total} runs {verb} finished; the tables show the results so far.")
    return warnings


def build(loaded: Loaded, margin: float = MARGIN) -> list[Block]:
    """All blocks of the sweeps, in the order of their conditions. Arguments and errors are those of `analyse`."""
    frame, choices = select(loaded.frame)
    chosen = {choice.cell: choice for choice in choices}
    groups: dict[tuple[str, ...], Runs] = defaultdict(list)
    for run in frame.rename(columns=lambda name: name.replace(".", "_")).itertuples(index=False):
        groups[tuple(getattr(run, name) for name in CELL)].append(run)
    blocks, runs_of = [], []
    for backbone in dict.fromkeys(key[0] for key in groups):
        for condition in loaded.conditions:
            own = {
                (row, task): runs for (b, task, c, row), runs in groups.items() if (b, c) == (backbone, condition.name)
            }
            if own:
                cells = {
                    key: _cell(runs, chosen.get((backbone, key[1], condition.name, key[0])))
                    for key, runs in own.items()
                }
                blocks.append(_block(backbone, condition, own, cells))
                runs_of.append(own)
    blocks = _with_estimates(blocks)
    blocks = with_differences(blocks, runs_of, margin)
    return [with_notes(_with_best(block), runs, blocks) for block, runs in zip(blocks, runs_of, strict=True)]


def _order(row: str) -> tuple[int, str]:
    name = row.split()[0]
    return (ROW_ORDER.index(name) if name in ROW_ORDER else len(ROW_ORDER), row)


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
        rows.append(
            Row(
                name=name,
                parameters=int(first.adapter_parameters),
                residual=float(first.residual),
                ranks=first.ranks if isinstance(first.ranks, str) else "",
                beyond_budget=beyond,
                refused=refused,
                cells={} if refused else {task: cells.get((name, task), Cell()) for task in tasks},
                method=first.method,
            )
        )
    sets = {task: next(run.data_set for (_, t), own in runs.items() if t == task for run in own) for task in tasks}
    metrics = {task: _metric(cells, task) for task in tasks}
    return Block(backbone=backbone, condition=condition, tasks=tasks, metrics=metrics, rows=rows, data_sets=sets)


def _metric(cells: dict[tuple[str, str], Cell], task: str) -> str:
    return next((cell.metric for (_, t), cell in cells.items() if t == task and cell.metric), "score")


def _cell(runs: Runs, choice: Choice | None) -> Cell:
    finished = sorted((r for r in runs if r.state == "finished" and not np.isnan(r.score)), key=lambda r: r.seed)
    states = Counter(run.state for run in runs)
    undefined = {int(r.seed): "undefined score" for r in runs if r.state == "finished" and np.isnan(r.score)}
    states.pop("finished", None)
    if undefined:
        states["undefined score"] = len(undefined)
    diverged = {int(run.seed): "diverged" for run in runs if run.state == "diverged"}
    return Cell(
        scores={int(run.seed): float(run.score) for run in finished},  # in seed order, because rounding depends on it
        planned=len(runs),
        other=states,
        metric=next((run.metric for run in runs if isinstance(run.metric, str)), None),
        choice=choice,
        step_seconds=_median(run.step_seconds for run in finished),
        peak_bytes=None if (peak := _median(run.peak_bytes for run in finished)) is None else int(peak),
        run_ids={int(run.seed): run.run_id for run in sorted(runs, key=lambda r: r.seed)},
        without_score=diverged | undefined,
    )


def _median(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if not pd.isna(value)]
    return float(np.median(known)) if known else None


def _with_estimates(blocks: list[Block]) -> list[Block]:
    """The blocks with the mean and interval of every cell, computed in one go."""
    places = [(i, row.name, task, cell) for i, block in enumerate(blocks) for row, task, cell in block.cells()]
    samples = [np.array(list(cell.scores.values())) for _, _, _, cell in places]
    new: dict[int, dict[tuple[str, str], Cell]] = defaultdict(dict)
    for (i, row, task, cell), sample, interval in zip(places, samples, mean_intervals(samples), strict=True):
        estimate = Estimate(float(np.mean(sample)), interval) if len(sample) else None
        new[i][row, task] = replace(cell, estimate=estimate)
    return [block.with_cells(new[i]) for i, block in enumerate(blocks)]


def _with_best(block: Block) -> Block:
    """The block with each task's best complete mean within the budget marked, if there are two to compare."""
    new: dict[tuple[str, str], Cell] = {}
    for task in block.tasks:
        cells = {row.name: row.cells[task] for row in block.rows if row.is_ranked and row.cells[task].is_complete}
        if len(cells) > 1:
            top = max(mean for cell in cells.values() if (mean := cell.mean) is not None)
            new |= {(name, task): replace(cell, best=True) for name, cell in cells.items() if cell.mean == top}
    return block.with_cells(new)

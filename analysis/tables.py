"""The isorank and isoparameter tables: a block for each backbone and condition, rows methods, columns tasks.

Cells are honest: what failed, diverged or is missing is counted and shown, nothing incomplete is bold, a row beyond
its budget is shown with its residual and never bold, an isorank row of other ranks is refused.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analysis.load import FINGERPRINTS, Loaded
from analysis.selection import Choice, select
from analysis.statistics import Paired, holm, paired, seeds_needed, t_half_width
from tensloradist.results.schema import Condition

GROUPING_ORDER = ("lora", "att", "qkv", "depth", "att_qkv", "att_depth", "qkv_depth", "att_qkv_depth")
HARDWARE = {"hardware": "hardware", "precision": "precision", "versions": "library versions"}


@dataclass(frozen=True)
class Cell:
    """One method on one task under one condition. Scores are fractions, as in the results."""

    scores: dict[int, float]  # seed -> test score of finished runs
    planned: int
    other: Counter[str]  # states of the runs that have no score
    difference: Paired | None = None
    no_difference: str | None = None  # why there is no paired difference
    best: bool = False
    choice: Choice | None = None

    @property
    def mean(self) -> float | None:
        return float(np.mean(list(self.scores.values()))) if self.scores else None

    @property
    def half_width(self) -> float | None:
        return t_half_width(np.array(list(self.scores.values())))

    @property
    def is_complete(self) -> bool:
        return len(self.scores) == self.planned


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


@dataclass(frozen=True)
class Block:
    """One backbone under one condition."""

    backbone: str
    condition: Condition
    tasks: tuple[str, ...]
    metrics: dict[str, str]
    rows: list[Row]
    notes: list[str] = field(default_factory=list)


def build(loaded: Loaded) -> list[Block]:
    """All blocks of a sweep, in the order of its conditions."""
    frame, choices = select(_with_columns(loaded.frame))
    chosen = {choice.cell: choice for choice in choices}
    blocks = []
    for backbone in frame["backbone"].unique():
        for condition in loaded.manifest.conditions:
            part = frame[(frame["backbone"] == backbone) & (frame["condition"] == condition.name)]
            if len(part):
                blocks.append(_block(str(backbone), condition, part, chosen))
    return blocks


def _with_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """A sweep without any result has no columns of results yet."""
    optional = ("score", "validation_score", "metric", "cause", *HARDWARE, *(f"fingerprint_{n}" for n in FINGERPRINTS))
    return frame.assign(**{name: None for name in optional if name not in frame})


def _order(row: str) -> tuple[int, str]:
    name = row.split()[0]
    return (GROUPING_ORDER.index(name) if name in GROUPING_ORDER else len(GROUPING_ORDER), row)


def _block(backbone: str, condition: Condition, part: pd.DataFrame, chosen: dict[tuple[str, ...], Choice]) -> Block:
    tasks = tuple(str(task) for task in part["task"].unique())
    rows = []
    for name in sorted(part["row"].unique(), key=_order):
        runs = part[part["row"] == name]
        first = runs.iloc[0]
        refused = None
        if condition.kind == "isorank" and not runs["all_ranks_equal"].all():
            refused = f"its ranks ({first['ranks']}) are not all {condition.rank}"
        cells = {
            task: _cell(runs[runs["task"] == task], chosen.get((backbone, task, condition.name, name)))
            for task in tasks
            if refused is None
        }
        beyond = condition.tolerance is not None and abs(first["residual"]) > condition.tolerance
        rows.append(
            Row(
                name,
                int(first["adapter_parameters"]),
                float(first["residual"]),
                str(first["ranks"]),
                beyond,
                refused,
                cells,
            )
        )
    notes: list[str] = []
    for task in tasks:
        rows = _compare(rows, task, part[part["task"] == task], notes)
        rows = _mark_best(rows, task)
    metrics = {task: str(next(iter(part.loc[part["task"] == task, "metric"].dropna()), "score")) for task in tasks}
    notes += _honest_notes(rows, part) + _selection_notes(rows)
    return Block(backbone, condition, tasks, metrics, rows, notes)


def _cell(runs: pd.DataFrame, choice: Choice | None) -> Cell:
    finished = runs[(runs["state"] == "finished") & runs["score"].notna()].sort_values("seed")  # sums round by order
    states = Counter(runs["state"])
    states["finished"] -= len(finished)
    if states["finished"]:
        states["undefined score"] = states["finished"]
    del states["finished"]
    scores = {int(seed): float(score) for seed, score in zip(finished["seed"], finished["score"], strict=True)}
    return Cell(scores, len(runs), states, choice=choice)


def _compare(rows: list[Row], task: str, part: pd.DataFrame, notes: list[str]) -> list[Row]:
    """Add the paired differences to LoRA of one column, Holm-corrected over its rows."""
    baselines = [row for row in rows if row.name.split()[0] == "lora" and task in row.cells]
    if len(baselines) != 1:
        why = "no LoRA in this sweep" if not baselines else "several LoRA variants in this sweep"
        notes.append(f"{task}: {why}, so there are no paired differences.")
        return rows
    baseline = baselines[0]
    compared: dict[str, Cell] = {}
    for row in rows:
        if row is baseline or task not in row.cells:
            continue
        cell = row.cells[task]
        common = sorted(cell.scores.keys() & baseline.cells[task].scores.keys())
        mismatch = _mismatch(part, row.name, baseline.name, common)
        if mismatch:
            compared[row.name] = replace(cell, no_difference=mismatch)
            notes.append(f"{task}, {row.name}: not compared with LoRA: {mismatch}.")
        elif not common:
            compared[row.name] = replace(cell, no_difference="no common seed")
        else:
            a, b = (np.array([c.scores[s] for s in common]) for c in (cell, baseline.cells[task]))
            compared[row.name] = replace(cell, difference=paired(a, b))
    tested = [name for name, cell in compared.items() if cell.difference]
    differences = {name: cell.difference for name, cell in compared.items() if cell.difference}
    corrected = dict(zip(tested, holm([differences[name].p for name in tested]), strict=True))
    for name in tested:
        compared[name] = replace(compared[name], difference=replace(differences[name], p_holm=corrected[name]))
    if tested:
        need, have = seeds_needed(len(tested)), min(d.n for d in differences.values())
        if have < need:
            notes.append(
                f"{task}: {have} seed{'s are' if have > 1 else ' is'} too few for a corrected test over "
                f"{len(tested)} rows (it needs {need}); the intervals are the estimate, not a verdict."
            )
        else:
            significant = [name for name in tested if corrected[name] <= 0.05]
            notes.append(
                f"{task}: different from LoRA at 5 % (exact sign-flip test, Holm over {len(tested)} rows): "
                f"{', '.join(significant) or 'none'}."
            )
    return [
        replace(row, cells={**row.cells, task: compared[row.name]}) if row.name in compared else row for row in rows
    ]


def _mismatch(part: pd.DataFrame, name: str, baseline: str, seeds: list[int]) -> str | None:
    """Which fingerprints differ between two methods' runs of the same seed, if any."""
    different = set()
    for seed in seeds:
        ours, theirs = (part[(part["row"] == row) & (part["seed"] == seed)].iloc[0] for row in (name, baseline))
        different |= {n for n in FINGERPRINTS if ours[f"fingerprint_{n}"] != theirs[f"fingerprint_{n}"]}
    return f"the runs differ in {', '.join(sorted(different))}, so they are not paired" if different else None


def _mark_best(rows: list[Row], task: str) -> list[Row]:
    """The best complete mean within the budget; nothing is best among fewer than two."""
    means = {
        row.name: row.cells[task].mean
        for row in rows
        if task in row.cells and row.cells[task].is_complete and not row.beyond_budget
    }
    known = {name: mean for name, mean in means.items() if mean is not None}
    if len(known) < 2:
        return rows
    top = max(known.values())
    return [
        replace(row, cells={**row.cells, task: replace(row.cells[task], best=True)})
        if known.get(row.name) == top
        else row
        for row in rows
    ]


def _honest_notes(rows: list[Row], part: pd.DataFrame) -> list[str]:
    notes = []
    ended = part[part["state"].isin(["finished", "diverged"])]
    for column, what in HARDWARE.items():
        found = ended[column].dropna().unique()
        if len(found) > 1:
            notes.append(
                f"Warning: runs of different {what} are compared here ({'; '.join(sorted(map(str, found)))}); "
                "times must not be compared."
            )
    for row in rows:
        if row.refused:
            notes.append(f"{row.name}: refused, {row.refused}.")
        if row.beyond_budget:
            notes.append(f"{row.name}: {100 * row.residual:+.1f} % off its budget, beyond the tolerance; not ranked.")
        if any(len(cell.scores) > 1 and len(set(cell.scores.values())) == 1 for cell in row.cells.values()):
            notes.append(f"{row.name}: all seeds gave the same score, so its interval has no width.")
    for cause, number in part.loc[part["state"] == "failed", "cause"].value_counts().items():
        notes.append(f"{number} failed: {cause}")
    return notes


def _selection_notes(rows: list[Row]) -> list[str]:
    """What was chosen for whom: methods with the same choice on one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    unfair = []
    for row in rows:
        for task, cell in row.cells.items():
            if cell.choice is not None:
                groups.setdefault((task, cell.choice.describe()), []).append(row.name)
                unfair += [row.name] if not cell.choice.common_seeds else []
    notes = [
        f"{task}: {what}, by mean validation score, for "
        f"{'all methods' if len(names) == len(rows) else ', '.join(names)}."
        for (task, what), names in groups.items()
    ]
    if unfair:
        notes.append(
            f"Not chosen but first of the grid, since its settings have no common seed yet: {', '.join(unfair)}."
        )
    return notes

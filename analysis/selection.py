"""Selection: which learning rate (or other optimiser setting) stands for a method, chosen on validation scores only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tensloradist.errors import UserError
from tensloradist.wording import exactly

CELL = ["backbone", "task", "condition", "row"]
ENDED = ("finished", "diverged")


@dataclass(frozen=True)
class Setting:
    """One setting that was tried in a cell; its mean validation score over the seeds common to all of them."""

    values: dict[str, Any]
    validation: float | None  # of its runs that have a score; None: no common seed, or no run has a score
    ended: int  # runs that have finished or diverged
    without_score: int = 0  # runs on the common seeds that have none: diverged, or not defined


@dataclass(frozen=True)
class Choice:
    """What was chosen for one cell, from what, and whether it lies at the edge of a grid."""

    cell: tuple[str, ...]  # as in CELL
    chosen: dict[str, Any]
    tried: tuple[Setting, ...]
    common_seeds: int
    at_edge: bool

    @property
    def candidates(self) -> int:
        return len(self.tried)

    @property
    def setting(self) -> Setting:
        """The one that stands for the method."""
        return next(setting for setting in self.tried if setting.values == self.chosen)

    @property
    def why_not_chosen(self) -> str | None:
        """Why nothing could be chosen on validation scores, so that the first of the grid stands; None if it was."""
        if not self.common_seeds:
            return "its settings have no common seed yet"
        if self.setting.validation is None:
            return "no run of any setting has a validation score"
        return None

    def describe(self) -> str:
        if self.why_not_chosen:
            return describe(self.chosen) + " (the grid's first, not chosen)"
        return describe(self.chosen) + (" (at the grid's edge)" if self.at_edge else "")


def describe(values: dict[str, Any]) -> str:
    """'learning_rate 0.001, epochs 10'."""
    return ", ".join(
        f"{name.removeprefix('optimizer.')} {exactly(value)}"
        if isinstance(value, int | float)
        else f"{name.removeprefix('optimizer.')} {value}"
        for name, value in values.items()
    )


def axis_columns(frame: pd.DataFrame) -> list[str]:
    """The optimiser's fields that differ between runs of the same cell."""
    names = [c for c in frame.columns if c == "learning_rate" or c.startswith("optimizer.")]
    varied = [name for name in names if frame[name].nunique(dropna=False) > 1]
    if not varied:
        return []
    counts = frame.groupby(CELL)[varied].nunique(dropna=False).max()
    return [name for name in varied if counts[name] > 1]


def select(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Choice]]:
    """The rows of the chosen settings, and the choices.

    A setting is chosen over the seeds that all settings of the cell have results for: by the fewest runs without a
    validation score (diverged), then by the highest mean of the others. A divergence is thus no veto where every
    setting has as many, and never hidden by the mean of the survivors. Without a common seed yet, or without any
    score, nothing can be chosen: the first setting stands, and `Choice.why_not_chosen` says why.

    Raises:
        UserError: a cell has two runs of one seed and setting, of which one would silently stand for both.
    """
    axes = axis_columns(frame)
    columns = [frame[name].tolist() for name in CELL]
    settings = [[None if pd.isna(v) else v for v in frame[name].tolist()] for name in axes]
    keys_of = zip(*settings, strict=True) if axes else [()] * len(frame)
    seeds, states, scores = (frame[name].tolist() for name in ("seed", "state", "validation_score"))
    run_ids = frame["run_id"].tolist()
    cells: dict[tuple[str, ...], dict[tuple[Any, ...], list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, (cell, key) in enumerate(zip(zip(*columns, strict=True), keys_of, strict=True)):
        cells[cell][key].append(place)
    for cell, by_setting in cells.items():
        for places in by_setting.values():
            _refuse_repeated(cell, [(seeds[place], run_ids[place]) for place in places])
    if not axes:
        return frame, []
    kept: list[int] = []
    choices = []
    for cell, by_setting in cells.items():
        keys = sorted(by_setting, key=lambda key: [(value is not None, value) for value in key])
        ended = [{seeds[place]: scores[place] for place in by_setting[k] if states[place] in ENDED} for k in keys]
        common = set.intersection(*(set(part) for part in ended))
        tried = tuple(
            _setting(dict(zip(axes, key, strict=True)), [part[seed] for seed in sorted(common)], len(part))
            for key, part in zip(keys, ended, strict=True)
        )
        best = max(range(len(keys)), key=lambda i: (*_merit(tried[i]), -i)) if common else 0
        kept += by_setting[keys[best]]
        at_edge = tried[best].validation is not None and _at_edge(best, tried)
        choices.append(Choice(cell, tried[best].values, tried, len(common), at_edge))
    return frame.iloc[sorted(kept)], choices


def _refuse_repeated(cell: tuple[str, ...], runs: Sequence[tuple[int, str]]) -> None:
    known: dict[int, str] = {}
    for seed, run_id in runs:
        other = known.setdefault(seed, run_id)
        if other != run_id:
            backbone, task, condition, row = cell
            raise UserError(
                f"the cell '{row}, {task}, {condition}, {backbone}' has two runs of seed {seed}, {other} and {run_id}, "
                "which its name does not tell apart; launch the sweep again with this version, whose labels do "
                "(nothing is trained again), or report on two sweeps apart"
            )


def _setting(values: dict[str, Any], scores: list[float], ended: int) -> Setting:
    known = [score for score in scores if not np.isnan(score)]
    return Setting(values, float(np.mean(known)) if known else None, ended, len(scores) - len(known))


def _merit(setting: Setting) -> tuple[int, float]:
    """The greater is chosen."""
    return -setting.without_score, -np.inf if setting.validation is None else setting.validation


def _at_edge(best: int, tried: tuple[Setting, ...]) -> bool:
    """Whether a chosen number is the smallest or largest of at least two tried."""
    for name, value in tried[best].values.items():
        numbers = {setting.values[name] for setting in tried if isinstance(setting.values[name], int | float)}
        if len(numbers) > 1 and value in (min(numbers), max(numbers)):
            return True
    return False

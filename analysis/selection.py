"""Select the learning rate (or other optimiser setting) that represents a method, by validation scores only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.model import CELL, ENDED, Choice, Setting
from tensloradist.errors import UserError


def axis_columns(frame: pd.DataFrame) -> list[str]:
    """The optimiser fields that differ between runs of the same cell."""
    names = [c for c in frame.columns if c == "learning_rate" or c.startswith("optimizer.")]
    varied = [name for name in names if frame[name].nunique(dropna=False) > 1]
    if not varied:
        return []
    counts = frame.groupby(CELL)[varied].nunique(dropna=False).max()
    return [name for name in varied if counts[name] > 1]


def select(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Choice]]:
    """The frame's rows of the chosen settings, and the choices.

    Settings are compared over the seeds for which all settings of the cell have results. The setting with the fewest
    runs without a validation score (diverged) is chosen; ties are broken by the mean over the other runs. So divergence
    does not exclude a setting if all settings diverge equally often, and a good mean of the survivors never hides it.
    Without a common seed or any score there is no choice: the first setting is used, and `Choice.why_not_chosen` gives
    the reason.

    Raises:
        UserError: a cell has two runs of one seed and setting, so one would silently stand for both.
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
        choices.append(
            Choice(cell=cell, chosen=tried[best].values, tried=tried, common_seeds=len(common), at_edge=at_edge)
        )
    return frame.iloc[sorted(kept)], choices


def _refuse_repeated(cell: tuple[str, ...], runs: Sequence[tuple[int, str]]) -> None:
    known: dict[int, str] = {}
    for seed, run_id in runs:
        other = known.setdefault(seed, run_id)
        if other != run_id:
            backbone, task, condition, row = cell
            raise UserError(
                f"the cell '{row}, {task}, {condition}, {backbone}' has two runs of seed {seed}, {other} and {run_id}, "
                "which share one name; launch the sweep again with this version, which gives them different names "
                "(nothing is trained again), or report on two sweeps separately"
            )


def _setting(values: dict[str, Any], scores: list[float], ended: int) -> Setting:
    known = [score for score in scores if not np.isnan(score)]
    mean = float(np.mean(known)) if known else None
    return Setting(values=values, validation=mean, ended=ended, without_score=len(scores) - len(known))


def _merit(setting: Setting) -> tuple[int, float]:
    """The sort key of a setting: the one with the greatest key is chosen."""
    return -setting.without_score, -np.inf if setting.validation is None else setting.validation


def _at_edge(best: int, tried: tuple[Setting, ...]) -> bool:
    """Whether any chosen number is the smallest or largest of at least two tried."""
    for name, value in tried[best].values.items():
        numbers = {setting.values[name] for setting in tried if isinstance(setting.values[name], int | float)}
        if len(numbers) > 1 and value in (min(numbers), max(numbers)):
            return True
    return False

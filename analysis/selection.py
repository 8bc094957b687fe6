"""Selection: which learning rate (or other optimiser setting) stands for a method, chosen on validation scores only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

CELL = ["backbone", "task", "condition", "row"]


@dataclass(frozen=True)
class Choice:
    """What was chosen for one cell, from what, and whether it lies at the edge of a grid."""

    cell: tuple[str, ...]
    chosen: dict[str, Any]
    candidates: int
    common_seeds: int
    at_edge: bool

    def describe(self) -> str:
        values = ", ".join(
            f"{name.removeprefix('optimizer.')} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.chosen.items()
        )
        return values + (" (at the grid's edge)" if self.at_edge else "")


def axis_columns(frame: pd.DataFrame) -> list[str]:
    """The optimiser's fields that differ between runs of the same cell."""
    names = [c for c in frame.columns if c == "learning_rate" or c.startswith("optimizer.")]
    return [name for name in names if frame.groupby(CELL)[name].nunique(dropna=False).max() > 1]


def select(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Choice]]:
    """The rows of the chosen settings, and the choices.

    A setting is chosen by its mean validation score over the seeds that all settings of the cell have results for; a
    diverged run scores below everything. Without a common seed yet, nothing can be chosen fairly: the first setting
    stands, with `common_seeds` 0.
    """
    axes = axis_columns(frame)
    if not axes:
        return frame, []
    kept, choices = [], []
    for cell, group in frame.groupby(CELL, sort=False):
        settings = list(group.groupby(axes, sort=True, dropna=False))
        ended = group["state"].isin(["finished", "diverged"])
        seeds = [set(part.loc[ended.loc[part.index], "seed"]) for _, part in settings]
        common = set.intersection(*seeds)
        best = max(range(len(settings)), key=lambda i: (_mean_validation(settings[i][1], common), -i)) if common else 0
        key, chosen = settings[best]
        values = dict(zip(axes, key, strict=True))
        kept.append(chosen)
        choices.append(Choice(tuple(map(str, cell)), values, len(settings), len(common), _at_edge(values, group)))
    return pd.concat(kept), choices


def _mean_validation(part: pd.DataFrame, seeds: set[int]) -> float:
    scores = part.loc[part["seed"].isin(seeds), "validation_score"].astype(float)
    return float(scores.fillna(-np.inf).mean())


def _at_edge(values: dict[str, Any], group: pd.DataFrame) -> bool:
    """Whether a chosen number is the smallest or largest of at least two tried."""
    for name, value in values.items():
        tried = group[name].unique()
        if len(tried) > 1 and isinstance(value, int | float) and value in (min(tried), max(tried)):
            return True
    return False

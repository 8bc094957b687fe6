"""Learning curves from the metrics.jsonl of attempts: the mean over seeds at each epoch with its 95 % t interval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis.model import Analysis, Cell, Estimate
from analysis.statistics.intervals import t_intervals
from tensloradist.results.layout import RunFolder


@dataclass(frozen=True)
class Curve:
    """The validation scores of one method's chosen setting, in the metric's own unit."""

    method: str
    epochs: tuple[int, ...]
    values: tuple[Estimate, ...]


def read_curves(
    analysis: Analysis, cells: Sequence[tuple[str, Cell]], metric: str
) -> tuple[tuple[Curve, ...], list[str]]:
    """The curves of these methods, and a sentence for each method with unreadable files.

    A run's curve is that of the attempt which produced its result. Epochs that some of a method's runs lack are left
    out, so that every interval covers the same seeds.
    """
    finished = [(name, [cell.run_ids[seed] for seed in cell.scores]) for name, cell in cells if cell.scores]
    root = analysis.loaded.root
    if not finished:
        return (), []
    if root is None:
        return (), ["no learning curves, because a bundle does not contain them"]
    curves, absent = [], []
    for name, run_ids in finished:
        files = [RunFolder(root, i).attempt(int(analysis.runs[i]["attempt"])) / "metrics.jsonl" for i in run_ids]
        runs = [values for path in files if (values := epochs_of(path, metric))]
        if broken := len(files) - len(runs):
            absent.append(f"{name}: the learning curves of {broken} of {len(files)} runs cannot be read")
        common = sorted(set.intersection(*map(set, runs))) if runs else []
        if common:
            samples = [np.array([run[epoch] for run in runs]) for epoch in common]
            intervals = t_intervals(samples)
            means = tuple(Estimate(float(s.mean()), i) for s, i in zip(samples, intervals, strict=True))
            curves.append(Curve(name, tuple(common), means))
    return tuple(curves), absent


def epochs_of(path: Path, metric: str) -> dict[int, float]:
    """Epoch -> validation score of one attempt; empty if the file is missing or damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records: list[dict[str, Any]] = [json.loads(line) for line in lines if '"validation"' in line]
        values = {
            int(r["epoch"]): r["validation"].get(metric) for r in records if isinstance(r.get("validation"), dict)
        }
        return {epoch: float(value) for epoch, value in values.items() if value is not None}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return {}

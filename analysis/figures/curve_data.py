"""The data of learning curves, from the attempts' metrics.jsonl; a curve that can't be read is said, never faked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.analyse import Analysis
from analysis.figures.data import Curve, Curves, Estimate
from analysis.statistics.intervals import t_intervals
from analysis.tables import Cell
from tensloradist.results.layout import RunFolder


def read_curves(analysis: Analysis, cells: Sequence[tuple[str, Cell]], metric: str) -> tuple[Curves | None, list[str]]:
    """The curves of the methods' chosen settings, and why some are absent.

    A run's curve is that of the attempt that its result came from; an epoch that not all of a method's runs have is
    left out, so that a band is always over the same seeds.
    """
    finished = [(name, [cell.run_ids[seed] for seed in cell.scores]) for name, cell in cells if cell.scores]
    if not finished:
        return None, []
    if analysis.loaded.root is None:
        return None, ["no learning curves, since a bundle was read, which is not unpacked anywhere"]
    attempts = _attempts(analysis)
    curves, absent = [], []
    for name, run_ids in finished:
        runs, broken = [], 0
        for run_id in run_ids:
            path = RunFolder(analysis.loaded.root, run_id).attempt(attempts[run_id]) / "metrics.jsonl"
            values = epochs_of(path, metric)
            broken += not values
            runs += [values] if values else []
        if broken:
            absent.append(f"{name}: the learning curves of {broken} of {len(run_ids)} runs can't be read")
        common = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
        if common:
            samples = [np.array([100 * run[epoch] for run in runs]) for epoch in common]
            values_of = [
                Estimate(float(sample.mean()), *((interval.low, interval.high) if interval else ()))
                for sample, interval in zip(samples, t_intervals(samples), strict=True)
            ]
            curves.append(Curve(name, tuple(common), tuple(values_of)))
    return (Curves(metric, tuple(curves)) if curves else None), absent


def _attempts(analysis: Analysis) -> dict[str, int]:
    frame = analysis.loaded.frame
    known = frame[frame["attempt"].notna()]
    return dict(zip(known["run_id"], known["attempt"].astype(int), strict=True))


def epochs_of(path: Path, metric: str) -> dict[int, float]:
    """Validation score by epoch of one attempt; empty where the file is absent or damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        records: list[dict[str, Any]] = [json.loads(line) for line in lines if '"validation"' in line]
        values = {
            int(r["epoch"]): r["validation"].get(metric) for r in records if isinstance(r.get("validation"), dict)
        }
        return {epoch: float(value) for epoch, value in values.items() if value is not None}
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return {}

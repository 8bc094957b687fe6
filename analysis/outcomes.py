"""What became of each run: its result, its newest failure, or nothing yet; with the cache of results already read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.columns import FINGERPRINTS, MEASURED, Column, typed
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import BrokenResult, read_failure, read_result
from tensloradist.results.schema import Result

RUN = {"run_id": Column("str", "", "")}


def outcomes(root: Path, run_ids: list[str], broken: list[str]) -> pd.DataFrame:
    """A row of measured columns for each run; unreadable files are added to `broken`."""
    rows = [{"run_id": run_id, **_outcome(RunFolder(root, run_id), broken)} for run_id in run_ids]
    return typed(rows, RUN | MEASURED)


def _outcome(folder: RunFolder, broken: list[str]) -> dict[str, Any]:
    if folder.result.exists():
        try:
            return measured(read_result(folder.result))
        except BrokenResult as error:
            broken.append(str(error))
            return {"state": "broken"}
    try:
        failure = read_failure(folder)
    except BrokenResult as error:
        broken.append(str(error))
        return {"state": "broken"}
    if failure is None or failure.cause == "interrupted":
        return {"state": "missing"}
    return {"state": "failed", "cause": f"{failure.cause}: {failure.message}"}


def measured(result: Result) -> dict[str, Any]:
    """The measured columns of a validated result."""
    provenance, metrics = result.provenance, result.metrics
    hardware, versions = provenance.get("hardware") or {}, provenance.get("versions") or {}
    return {
        "state": result.state,
        "attempt": result.attempt,
        "metric": metrics.primary,
        "score": metrics.score,
        "validation_score": metrics.validation_score,
        "score_at_best_validation": metrics.test_at_best_validation.get(metrics.primary),
        "best_epoch": metrics.best_epoch,
        "test_metrics": json.dumps(metrics.test, sort_keys=True),
        "trainable_parameters": result.trainable_parameters,
        "step_seconds": result.times.step_seconds,
        "samples_per_second": result.times.samples_per_second,
        "train_seconds": result.times.train_seconds,
        "total_seconds": result.times.total_seconds,
        "peak_bytes": result.peak_memory.device_bytes or result.peak_memory.host_bytes,
        "hardware": str(hardware.get("gpu") or hardware.get("cpu")),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "precision": str(provenance.get("precision")),
        "commit": (provenance.get("code") or {}).get("commit"),
        "host": provenance.get("host"),
        "workers_per_gpu": provenance.get("workers_per_gpu"),
        **{f"fingerprint_{name}": getattr(result.fingerprints, name) for name in FINGERPRINTS},
    }

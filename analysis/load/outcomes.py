"""The outcome of each run: its result, the failure of its newest attempt, or none. Results are cached."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load.cache import RUN, STAMP, Stamp, read_cache, stamp_of, write_cache
from analysis.load.columns import MEASURED, typed
from analysis.model import FINGERPRINTS
from tensloradist.results.attempts import attempt_files
from tensloradist.results.layout import RunFolder
from tensloradist.results.schema import Result
from tensloradist.results.standing import standing

_THREADS, _AT_ONCE = 8, 256  # network file systems serve many requests in parallel


def outcomes(root: Path, run_ids: list[str], broken: list[str], use_cache: bool = True) -> pd.DataFrame:
    """A row of measured columns for each run. Adds a line to `broken` for each unreadable file."""
    cached = read_cache(root) if use_cache else None
    stamps = dict(zip(run_ids, _in_threads(root, run_ids), strict=True))
    fresh = set() if cached is None else _fresh(cached, stamps)
    rows, new_stamps = [], {}
    for run_id in run_ids:
        if run_id in fresh:
            continue
        stamp = stamps[run_id]
        outcome = _outcome(root, run_id, broken)
        rows.append({"run_id": run_id, **outcome})
        if stamp is not None and outcome["state"] in ("finished", "diverged"):
            new_stamps[run_id] = stamp
    read = typed(rows, RUN | MEASURED).set_index("run_id", drop=False)
    if use_cache and new_stamps:
        stamped = pd.DataFrame.from_dict(new_stamps, orient="index", columns=list(STAMP), dtype="int64")
        new = read.loc[list(new_stamps)].join(stamped)
        old = cached[~cached.index.isin(new.index)] if cached is not None else new.iloc[:0]
        write_cache(root, pd.concat([old, new])[["run_id", *STAMP, *MEASURED]])
    if cached is None or not fresh:
        return read.reset_index(drop=True)
    columns = list(read.columns)
    both = pd.concat([cached.loc[[run_id for run_id in run_ids if run_id in fresh], columns], read])
    return both.loc[run_ids].reset_index(drop=True)


def _in_threads(root: Path, run_ids: list[str]) -> Iterator[Stamp | None]:
    runs = str(root / "runs")
    parts = [run_ids[i : i + _AT_ONCE] for i in range(0, len(run_ids), _AT_ONCE)]
    with ThreadPoolExecutor(_THREADS) as threads:
        for part in threads.map(lambda ids: [stamp_of(f"{runs}/{run_id}/result.json") for run_id in ids], parts):
            yield from part


def _fresh(cached: pd.DataFrame, stamps: dict[str, Stamp | None]) -> set[str]:
    """The runs whose files have not changed since they were cached."""
    known = zip(cached.index, zip(*(cached[name].tolist() for name in STAMP), strict=True), strict=True)
    return {run_id for run_id, stamp in known if run_id in stamps and stamps[run_id] == stamp}


def _outcome(root: Path, run_id: str, unread: list[str]) -> dict[str, Any]:
    """The measured columns of a run. Adds problems with its files to `unread`."""
    run = RunFolder(root, run_id)
    found = standing(run)
    if found.result is not None:
        return measured(found.result)
    unread.extend(found.problems[:1])
    if found.state != "open" or found.problems:
        return {"state": "broken" if found.state == "open" else found.state}
    newest = attempt_files(run, numbers[-1]) if (numbers := run.attempt_numbers()) else None
    if newest is None or newest.failure is None or not newest.has_failed:
        return {"state": "missing"}
    return {"state": "failed", "cause": f"{newest.failure.cause}: {newest.failure.message}"}


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
        "data_wait_share": result.times.data_wait_share,
        "samples_per_second": result.times.samples_per_second,
        "train_seconds": result.times.train_seconds,
        "total_seconds": result.times.total_seconds,
        "peak_bytes": result.peak_memory.device_bytes or result.peak_memory.host_bytes,
        "hardware": str(hardware.get("gpu") or hardware.get("cpu")),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "precision": str(provenance.get("precision")),
        "threads": None if hardware.get("gpu") else provenance.get("threads"),
        "environment": _listed(provenance.get("environment"), "=", "none set"),
        "plugins": _listed((provenance.get("code") or {}).get("plugins"), " ", None),
        "commit": (provenance.get("code") or {}).get("commit"),
        "host": provenance.get("host"),
        "workers_per_gpu": provenance.get("workers_per_gpu"),
        **{f"fingerprint_{name}": getattr(result.fingerprints, name) for name in FINGERPRINTS},
    }


def _listed(values: dict[str, str] | None, between: str, empty: str | None) -> str | None:
    """'A=1, B=2'; None if nothing is recorded."""
    if values is None:
        return None
    return ", ".join(f"{name}{between}{value}" for name, value in sorted(values.items())) or empty

"""Loading: a sweep's manifest and its runs' results, as one tidy pandas frame with a row for each run and condition.

Nothing is dropped in silence: a run without a result has a state that says why, a broken file is listed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

from tensloradist.errors import UserError
from tensloradist.results.bundle import is_bundle, opened
from tensloradist.results.layout import RunFolder, sweep_folder
from tensloradist.results.publish import BrokenResult, read_failure, read_result
from tensloradist.results.schema import MANIFEST_SCHEMA_VERSION, Manifest, ManifestRun, Result
from tensloradist.shipped import find_shipped

FINGERPRINTS = ("data", "split", "data_order", "head")


@dataclass
class Loaded:
    """A sweep's results: the manifest, the frame (see `COLUMNS`), broken files, and warnings for the reader."""

    manifest: Manifest
    frame: pd.DataFrame
    broken: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


COLUMNS = {
    "run_id": "identity of the run",
    "row": "method: grouping, factorisation and options",
    "backbone": "",
    "task": "",
    "condition": "isorank r=… or isoparameter r=…",
    "kind": "isorank or isoparameter",
    "seed": "training seed",
    "state": "finished, diverged, failed, missing or broken",
    "cause": "why it failed",
    "score": "the protocol's test score, in the metric's own unit",
    "validation_score": "at the last epoch",
    "metric": "name of the score's metric",
    "adapter_parameters": "",
    "budget": "LoRA's parameters",
    "residual": "adapter_parameters / budget - 1",
    "all_ranks_equal": "every mode has the condition's rank",
    "learning_rate": "",
    "hardware": "",
    "versions": "",
    "precision": "",
    "step_seconds": "median of the training steps",
    "peak_bytes": "device, else host",
    **{f"fingerprint_{name}": "equal in runs that may be paired" for name in FINGERPRINTS},
}


def load_from(source: str, root: Path) -> Loaded:
    """The results of a sweep that is given by its file, its name, or its bundle (`tensloradist bundle`).

    Raises:
        UserError: as `load`, or the bundle is damaged.
    """
    if not is_bundle(source):
        return load(source, root)
    with opened(Path(source)) as (name, folder):
        return load(name, folder)


def load(source: str, root: Path) -> Loaded:
    """The results of a sweep.

    Args:
        source: a sweep file, or the name of a launched sweep.

    Raises:
        UserError: the sweep was never launched with this results folder, or its manifest is not readable.
    """
    name, text_hash = _name_of(source, root)
    manifest = _manifest(name, root)
    loaded = Loaded(manifest, pd.DataFrame())
    if text_hash is not None and text_hash != manifest.sweep_sha256:
        loaded.warnings.append(f"{source} has changed since it was launched; the tables show the sweep as launched")
    rows: list[dict[str, Any]] = []
    conditions = {condition.name: condition for condition in manifest.conditions}
    cache: dict[str, dict[str, Any]] = {}
    for run in manifest.runs:
        if run.run_id not in cache:
            cache[run.run_id] = _outcome(RunFolder(root, run.run_id), loaded.broken)
        outcome = cache[run.run_id]
        for membership in run.conditions:
            condition = conditions[membership.condition]
            rows.append(
                {
                    "run_id": run.run_id,
                    "row": run.row,
                    "backbone": run.backbone,
                    "task": run.task,
                    "condition": condition.name,
                    "kind": condition.kind,
                    "seed": run.spec["seed"],
                    "budget": membership.budget,
                    "residual": membership.residual,
                    "adapter_parameters": run.adapter_parameters,
                    "all_ranks_equal": all(rank == condition.rank for rank in run.ranks.values()),
                    "ranks": ", ".join(f"{mode} {rank}" for mode, rank in run.ranks.items()),
                    **_axes(run),
                    **outcome,
                }
            )
    loaded.frame = pd.DataFrame(rows)
    return loaded


def _name_of(source: str, root: Path) -> tuple[str, str | None]:
    """The sweep's name, and the hash of its file's text if there is one."""
    if (sweep_folder(root, source) / "latest").exists() and not Path(source).is_file():
        return source, None
    path = find_shipped("sweeps", source)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise UserError(f"{path}: no `name:`, so it is not a sweep file")
    return data["name"], sha256(path.read_bytes()).hexdigest()


def _manifest(name: str, root: Path) -> Manifest:
    folder = sweep_folder(root, name)
    if not (folder / "latest").exists():
        known = sorted(path.parent.name for path in root.glob("sweeps/*/latest"))
        raise UserError(
            f"sweep {name!r} has not been launched with the results folder {root}; launched there: "
            f"{', '.join(known) or 'none'}. Use --results, or `tensloradist launch`"
        )
    path = folder / f"{(folder / 'latest').read_text().strip()}.json"
    try:
        return Manifest.model_validate_json(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the manifest that `latest` names is gone") from error
    except ValidationError as error:
        raise UserError(
            f"{path}: not a manifest of version {MANIFEST_SCHEMA_VERSION} ({error.errors()[0]['msg']})"
        ) from error


def _axes(run: ManifestRun) -> dict[str, Any]:
    """The optimiser's fields: what a selection may choose between."""
    fields = {}
    for name, value in run.spec["optimizer"].items():
        key = name if name == "learning_rate" else f"optimizer.{name}"
        fields[key] = str(value) if isinstance(value, dict) else value
    return fields


def _outcome(folder: RunFolder, broken: list[str]) -> dict[str, Any]:
    if folder.result.exists():
        try:
            return _columns(read_result(folder.result))
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


def _columns(result: Result) -> dict[str, Any]:
    hardware, versions = result.provenance.get("hardware", {}), result.provenance.get("versions", {})
    return {
        "state": result.state,
        "score": result.metrics.score,
        "validation_score": result.metrics.validation_score,
        "metric": result.metrics.primary,
        "step_seconds": result.times.step_seconds,
        "total_seconds": result.times.total_seconds,
        "peak_bytes": result.peak_memory.device_bytes or result.peak_memory.host_bytes,
        "hardware": str(hardware.get("gpu") or hardware.get("cpu")),
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "precision": str(result.provenance.get("precision")),
        **{f"fingerprint_{name}": getattr(result.fingerprints, name) for name in FINGERPRINTS},
    }

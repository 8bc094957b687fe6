"""Why a run is new or stale: the fields that differ from its nearest relative's, or the code and versions since."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensloradist.errors import SpecError, UserError
from tensloradist.results.layout import RunFolder
from tensloradist.results.manifests import read_manifest
from tensloradist.results.publish import read_result
from tensloradist.spec import RunSpec

Flat = dict[str, Any]


@dataclass
class Why:
    """What `tensloradist why` says of a run."""

    run_id: str
    trained: bool
    relative: str | None = None
    fields: list[tuple[str, Any, Any]] = field(default_factory=list)  # (name, the relative's, this run's)
    versions: list[tuple[str, Any, Any]] = field(default_factory=list)  # (name, at the result's time, now)


def explain(wanted: str, root: Path) -> Why:
    """Why a run is new (its nearest relative with a result, and the fields that differ) or stale (code, versions).

    Args:
        wanted: the run's id, or the beginning of it.

    Raises:
        UserError: no manifest or run folder knows the run, or several begin so.
    """
    specs = known_specs(root)
    found = [run_id for run_id in specs if run_id.startswith(wanted)] if wanted else []
    if len(found) != 1 and wanted not in found:
        what = f"{len(found)} ids begin so ({', '.join(sorted(found)[:4])}, …)" if found else "not known here"
        raise UserError(
            f"run {wanted!r}: {what}; `tensloradist plan SWEEP --json` lists ids, and a launch records them"
        )
    run_id = wanted if wanted in specs else found[0]
    run = RunFolder(root, run_id)
    why = Why(run_id, run.result.exists())
    if why.trained:
        why.versions = _differences(_code(read_result(run.result).provenance), _code(_now()))
        return why
    own = flat(specs[run_id])
    nearest: tuple[int, str, Flat] | None = None
    for other, spec in specs.items():
        if other == run_id or not RunFolder(root, other).result.exists():
            continue
        theirs = flat(spec)
        distance = len(_differences(theirs, own))
        if nearest is None or (distance, other) < nearest[:2]:
            nearest = (distance, other, theirs)
    if nearest is not None:
        why.relative, why.fields = nearest[1], _differences(nearest[2], own)
    return why


def known_specs(root: Path) -> dict[str, dict[str, Any]]:
    """run_id -> spec, of all manifests of a results folder and of runs outside of sweeps."""
    specs: dict[str, dict[str, Any]] = {}
    for path in sorted((root / "sweeps").glob("*/*.json")):
        specs |= {run.run_id: run.spec for run in read_manifest(path).runs}
    for path in sorted((root / "runs").glob("*/spec.json")):
        if path.parent.name not in specs:
            specs[path.parent.name] = json.loads(path.read_text())
    return specs


def flat(spec: dict[str, Any]) -> Flat:
    """The fields that make a run's identity, by dotted name: content, never a path."""
    try:
        content = json.loads(RunSpec.model_validate(spec).canonical_json())
    except SpecError as error:
        raise UserError(f"a specification of another version ({error})") from error
    return dict(_flattened(content))


def _flattened(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(name, value)]
    return [pair for key, part in value.items() for pair in _flattened(part, f"{name}.{key}" if name else key)]


def _differences(old: Flat, new: Flat) -> list[tuple[str, Any, Any]]:
    names = [*old, *(name for name in new if name not in old)]
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _code(provenance: dict[str, Any]) -> Flat:
    return dict(provenance.get("versions", {})) | {f"code.{k}": v for k, v in provenance.get("code", {}).items()}


def _now() -> dict[str, Any]:
    from tensloradist.training.provenance import provenance

    return provenance()

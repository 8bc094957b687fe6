"""How a run differs: from another run, from its nearest relative with a result, or from itself with today's code."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensloradist.errors import SpecError, UserError
from tensloradist.names import dotted
from tensloradist.records import UnreadableRecord
from tensloradist.results.layout import RunFolder
from tensloradist.results.manifests import read_manifest
from tensloradist.results.publish import read_spec
from tensloradist.results.standing import standing
from tensloradist.sources import module_hash
from tensloradist.spec import RunSpec

Flat = dict[str, Any]
Change = tuple[str, Any, Any]  # (name of a field, the one value, the other)


@dataclass
class Why:
    """Why a run is new, or whether its result is stale."""

    run_id: str
    trained: bool
    relative: str | None = None
    fields: list[Change] = field(default_factory=list)  # (name, the relative's, this run's)
    versions: list[Change] = field(default_factory=list)  # (name, at the result's time, now)
    left_out: list[str] = field(default_factory=list)  # files that could not be read


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """How two runs differ."""

    first: str
    second: str
    fields: list[Change]  # of the specifications
    versions: list[Change]  # of the code and libraries that their results were made with; none without both results
    left_out: list[str]  # files that could not be read


def explain(wanted: str, root: Path) -> Why:
    """Why a run is new (its nearest relative with a result, and the fields that differ) or stale (code, versions).

    Args:
        wanted: the run's id, or the beginning of it.

    Raises:
        UserError: no manifest or run folder has the run, or the beginning is ambiguous.
    """
    specs, left_out = known_specs(root)
    run_id = _id_of(wanted, specs, left_out)
    found_there = standing(RunFolder(root, run_id))
    why = Why(run_id, found_there.is_over, left_out=[*found_there.problems, *left_out])
    if found_there.result is not None:
        then = found_there.result.provenance
        known = _code(then)  # an older result has no word on some of the code: then nothing can be said of it
        now = {name: value for name, value in _code(_now(then)).items() if name in known or "." not in name}
        why.versions = _differences(known, now)
        return why
    own = flat(specs[run_id])
    nearest: tuple[int, str, Flat] | None = None
    for other, spec in specs.items():
        if other == run_id or not os.path.exists(RunFolder(root, other).result):
            continue
        try:
            theirs = flat(spec)
        except UserError as error:
            why.left_out.append(f"run {other}: {error}")
            continue
        distance = len(_differences(theirs, own))
        if nearest is None or (distance, other) < nearest[:2]:
            nearest = (distance, other, theirs)
    if nearest is not None:
        why.relative, why.fields = nearest[1], _differences(nearest[2], own)
    return why


def between(first: str, second: str, root: Path) -> RunDifference:
    """How two runs differ, each given by its id or the beginning of it.

    Raises:
        UserError: as `explain`; or a specification that another version wrote.
    """
    specs, left_out = known_specs(root)
    ids = [_id_of(wanted, specs, left_out) for wanted in (first, second)]
    one, other = (flat(specs[run_id]) for run_id in ids)
    standings = [standing(RunFolder(root, run_id)) for run_id in ids]
    made = [_code(found.result.provenance) for found in standings if found.result is not None]
    return RunDifference(
        first=ids[0],
        second=ids[1],
        fields=_differences(one, other),
        versions=_differences(*made) if len(made) == 2 else [],
        left_out=[*(problem for found in standings for problem in found.problems), *left_out],
    )


def _id_of(wanted: str, specs: dict[str, dict[str, Any]], left_out: list[str]) -> str:
    found = [run_id for run_id in specs if run_id.startswith(wanted)] if wanted else []
    if wanted in specs or len(found) == 1:
        return wanted if wanted in specs else found[0]
    if found:
        some = ", ".join(sorted(found)[:4])
        raise UserError(f"run {wanted!r}: ambiguous, with {len(found)} matches ({some}, …); give more characters")
    unread = "".join(f"; not read: {line}" for line in left_out)
    raise UserError(
        f"run {wanted!r}: not known here; `tensloradist plan SWEEP --json` lists ids, and a launch records them{unread}"
    )


def known_specs(root: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """run_id -> spec, of all manifests of a results folder and of runs outside of sweeps; and what cannot be read."""
    specs: dict[str, dict[str, Any]] = {}
    left_out: list[str] = []
    for path in sorted((root / "sweeps").glob("*/*.json")):
        try:
            specs |= {run.run_id: run.spec for run in read_manifest(path).runs}
        except UserError as error:
            left_out.append(str(error))
    for path in sorted((root / "runs").glob("*/spec.json")):
        if path.parent.name in specs:
            continue
        try:
            if (spec := read_spec(path)) is not None:
                specs[path.parent.name] = spec.model_dump(mode="json")
        except UnreadableRecord as error:
            left_out.append(str(error))
    return specs, left_out


def flat(spec: dict[str, Any]) -> Flat:
    """The fields that make a run's identity, by dotted name: content, never a path."""
    try:
        content = json.loads(RunSpec.model_validate(spec).canonical_json())
    except SpecError as error:
        raise UserError(f"a specification of another version ({error})") from error
    return dict(dotted(content))


def _differences(old: Flat, new: Flat) -> list[Change]:
    names = [*old, *(name for name in new if name not in old)]
    return [(name, old.get(name), new.get(name)) for name in names if old.get(name) != new.get(name)]


def _code(provenance: dict[str, Any]) -> Flat:
    return dict(provenance.get("versions", {})) | dict(dotted({"code": provenance.get("code", {})}))


def _now(then: dict[str, Any]) -> dict[str, Any]:
    """The provenance that a run would have now, with the plugins that one had then."""
    from tensloradist.training.provenance import provenance

    found, plugins = provenance(), then.get("code", {}).get("plugins", {})
    return {**found, "code": {**found["code"], "plugins": {name: module_hash(name) for name in plugins}}}

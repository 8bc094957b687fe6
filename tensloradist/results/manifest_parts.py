"""The data and backbones of a manifest's runs, and what is said where they are not what they were. No torch here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tensloradist.errors import UserError
from tensloradist.fingerprint import is_read_anew, why_changed
from tensloradist.identity import fingerprint_now, local_paths
from tensloradist.spec import BackboneSpec, TaskSpec
from tensloradist.validation import validate

if TYPE_CHECKING:
    from tensloradist.results.schema import Manifest

Part = BackboneSpec | TaskSpec
_MOST = 3  # inputs that a note names


def parts_of(manifest: Manifest) -> dict[Part, set[str]]:
    """Every distinct backbone and data set -> the ids of its runs.

    Raises:
        UserError: a specification that this version cannot read.
    """
    found: dict[Part, set[str]] = {}
    sections: tuple[tuple[str, type[Part]], ...] = (("backbone", BackboneSpec), ("task", TaskSpec))
    for name, kind in sections:
        runs: dict[str, set[str]] = defaultdict(set)
        specs = {}
        for run in manifest.runs:
            spec = run.spec.get(name)
            specs[repr(spec)] = spec
            runs[repr(spec)].add(run.run_id)
        for key, spec in specs.items():
            found.setdefault(validate(kind, spec, f"{manifest.name}: {name}"), set()).update(runs[key])
    return found


def places_of(part: Part) -> set[str]:
    """The paths and names that say where it lies."""
    places = (part.data,) if isinstance(part, TaskSpec) else (part.name, part.weights)
    return {place for place in places if place is not None}


def note_of_new_readings(manifest: Manifest) -> str | None:
    """What a reader has to know where this version reads data or a backbone differently; None where it does not.

    What cannot be read here is passed over: a sweep that is given by its name is shown as it was launched.
    """
    try:
        parts = parts_of(manifest)
    except UserError:
        return None
    changed: dict[Part, str] = {}
    for part in parts:
        try:
            found = fingerprint_now(part) if local_paths(part) else part.fingerprint
        except UserError:
            continue
        if part.fingerprint is not None and found is not None and is_read_anew(part.fingerprint, found):
            changed[part] = found
    if not changed:
        return None
    number = len(set().union(*(parts[part] for part in changed)))
    said = _listed(_changed(part, str(part.fingerprint), found) for part, found in changed.items())
    return (
        f"{said}. The sweep {manifest.name!r} is shown as it was launched, with the earlier reading in {number} of "
        f"{len(manifest.runs)} runs. To train them anew, launch its file again: tensloradist launch FILE"
    )


def differences(launched: Manifest, now: Manifest) -> str:
    """Why a sweep file means other runs than those launched: its text, its data, or how they are read."""
    edited = launched.sweep_sha256 != now.sweep_sha256
    before = {_without_fingerprint(part): part.fingerprint for part in parts_of(launched)}
    said = ["the file was edited"] if edited else []
    for part in parts_of(now):
        planned = before.get(_without_fingerprint(part))
        if planned is None and not edited:
            said.append(f"{_shown(part)} is not where the launched runs had their {_kind(part)}")
        elif planned is not None and part.fingerprint not in (None, planned):
            said.append(_changed(part, planned, str(part.fingerprint)))
    return _listed(said or ["this version plans it differently"])


def _without_fingerprint(part: Part) -> Part:
    return part.model_copy(update={"fingerprint": None})


def _changed(part: Part, planned: str, found: str) -> str:
    return f"{_shown(part)} {why_changed(planned, found)}"


def _kind(part: Part) -> str:
    return "data" if isinstance(part, TaskSpec) else "backbone"


def _shown(part: Part) -> str:
    return f"{_kind(part)} {' '.join(sorted(places_of(part))) or part.name}"


def _listed(lines: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(lines))
    more = [f"{len(distinct) - _MOST} more"] if len(distinct) > _MOST else []
    return "; ".join(distinct[:_MOST] + more)

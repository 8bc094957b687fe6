"""The data and backbones of a manifest's runs, and notes on those that have changed. Imports no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tensloradist.errors import UserError
from tensloradist.fingerprint import is_read_anew, why_changed
from tensloradist.identity import fingerprint_now, local_paths
from tensloradist.results.schema import Manifest
from tensloradist.spec import BackboneSpec, TaskSpec

Part = BackboneSpec | TaskSpec
_MOST = 3  # inputs that a note names


def parts_of(manifest: Manifest) -> dict[Part, set[str]]:
    """Every distinct backbone and data set -> the ids of its runs."""
    found: dict[Part, set[str]] = defaultdict(set)
    for run in manifest.runs:
        found[run.spec.backbone].add(run.run_id)
    for run in manifest.runs:
        found[run.spec.task].add(run.run_id)
    return dict(found)


def places_of(part: Part) -> set[str]:
    """The paths and names of its files."""
    places = (part.data,) if isinstance(part, TaskSpec) else (part.name, part.weights)
    return {place for place in places if place is not None}


def note_of_new_readings(manifest: Manifest) -> str | None:
    """A note if this version reads data or a backbone differently than the version that launched; None if not.

    Files that cannot be read here are skipped: a sweep that is given by its name is shown as it was launched.
    """
    parts = parts_of(manifest)
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
    changes = _listed(_changed(part, str(part.fingerprint), found) for part, found in changed.items())
    return (
        f"{changes}. The sweep {manifest.name!r} is shown as it was launched, with the earlier reading in {number} of "
        f"{len(manifest.runs)} runs. To train them anew, launch its file again: tensloradist launch FILE"
    )


def differences(launched: Manifest, now: Manifest) -> str:
    """Why a sweep file plans other runs than those launched: its text, its data, or how the data is read."""
    edited = launched.sweep_sha256 != now.sweep_sha256
    before = {_without_fingerprint(part): part.fingerprint for part in parts_of(launched)}
    reasons = ["the file was edited"] if edited else []
    for part in parts_of(now):
        planned = before.get(_without_fingerprint(part))
        if planned is None and not edited:
            reasons.append(f"{_shown(part)} is not where the launched runs had their {_kind(part)}")
        elif planned is not None and part.fingerprint not in (None, planned):
            reasons.append(_changed(part, planned, str(part.fingerprint)))
    return _listed(reasons or ["this version plans it differently"])


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

"""Finds the sweep of a command's argument: a file, or the name of a launched or a shipped sweep.

A file means its present text, with the present data and backbones. If that is not what was launched, it is planned anew
(`planner`). Imports no torch.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path

from tensloradist.config import expand_paths, read_sweep
from tensloradist.errors import UserError
from tensloradist.identity import fingerprint_now
from tensloradist.plugins import load_plugins
from tensloradist.results.layout import sweep_folder
from tensloradist.results.manifest_parts import differences, note_of_new_readings, parts_of, places_of
from tensloradist.results.manifests import latest_digest, latest_manifest, not_launched, read_manifest
from tensloradist.results.planner import planned
from tensloradist.results.schema import Manifest
from tensloradist.shipped import find_shipped, shipped_names
from tensloradist.wording import counted


@dataclass(frozen=True)
class FoundSweep:
    """A sweep with its runs.

    Attributes:
        edited: how a file's runs differ from those that were launched last; None: they are the same.
        remedy: the commands for the runs of the file, and for those that were launched.
        warning: another note for the reader, such as on data that is read differently now.
    """

    manifest: Manifest
    edited: str | None = None
    remedy: str = ""
    warning: str | None = None

    @property
    def note(self) -> str | None:
        """A note for the reader; None: all is as it was launched."""
        return f"{self.edited}. The file is used as it is now; {self.remedy}." if self.edited else self.warning

    def require_launched(self, what: str) -> None:
        """Raises UserError for a file that was edited since; `what` is the reason why it may not be edited."""
        if self.edited:
            raise UserError(f"{self.edited}. {what}; {self.remedy}")


def sweep_name(source: str, root: Path) -> str:
    """The name of a sweep that was launched into this results folder, given by its file or by its name.

    Raises:
        UserError: it was never launched there; lists the sweeps that were.
    """
    name = source
    if (path := _file_of(source, root)) is not None:
        named = read_sweep(path).get("name")
        if not isinstance(named, str):
            raise UserError(f"{path}: no `name:`, so it is not a sweep file")
        name = named
    if not os.path.exists(sweep_folder(root, name) / "latest"):
        raise not_launched(name, root)
    return name


def find_sweep(source: str, root: Path) -> FoundSweep:
    """The sweep of a file, with the present data and backbones, or the one that was launched with a name.

    A file is planned anew unless a launched manifest has the same runs. Without its data, as on a laptop that only has
    the results, it is shown as the same text was launched, with a note.

    Raises:
        UserError: never launched into this results folder, a manifest that cannot be read, or an edited file that
            cannot be planned here.
    """
    name, path = sweep_name(source, root), _file_of(source, root)
    launched = latest_manifest(name, root)
    if path is None:
        return FoundSweep(launched, warning=note_of_new_readings(launched))
    manifest, newest = _launched_as(path, launched, root)
    try:
        manifest = manifest or planned(path)
    except UserError as error:
        if newest is None:
            raise UserError(
                f"{path}: edited since it was launched, and it cannot be planned here ({error}); to see the sweep as "
                f"it was launched, give its name: {name}"
            ) from error
        return FoundSweep(newest, warning=f"{source} cannot be planned here ({error}). It is shown as it was launched.")
    if manifest is launched or _cells(manifest) == _cells(launched):
        return FoundSweep(launched)  # nothing was edited but words, or the same files lie elsewhere
    return _edited(source, launched, manifest)


def _edited(source: str, launched: Manifest, manifest: Manifest) -> FoundSweep:
    ours, theirs = ({run.run_id for run in one.runs} for one in (manifest, launched))
    edited = (
        f"{source} is not the sweep {launched.name!r} as it was launched last: it has "
        f"{counted(len(ours - theirs), 'other run')} and lacks {len(theirs - ours)} ({differences(launched, manifest)})"
    )
    launch = shlex.join(("tensloradist", "launch", source))
    remedy = (
        f"to train what has no result: {launch}; for what was launched, give the name {launched.name} in place of the "
        "file"
    )
    return FoundSweep(manifest, edited, remedy)


def _file_of(source: str, root: Path) -> Path | None:
    """The sweep's file; None if the name of a launched sweep is given."""
    path = Path(source)
    if os.path.isfile(path):  # Path's own raises for a name that is too long
        return path
    if os.path.exists(sweep_folder(root, source) / "latest"):
        return None
    if path.suffix in (".yaml", ".yml") or source in shipped_names("sweeps"):
        return find_shipped("sweeps", source)
    return None


def _launched_as(path: Path, launched: Manifest, root: Path) -> tuple[Manifest | None, Manifest | None]:
    """(the newest manifest with the file's present runs, the newest manifest of the same text).

    Args:
        launched: the newest of all.
    """
    text, newest = sha256(path.read_bytes()).hexdigest(), None
    for manifest in chain([launched], _earlier(launched.name, root, text)):
        if manifest.sweep_sha256 == text:
            newest = newest or manifest
            if _means_the_same(path, manifest):
                return manifest, newest
    return None, newest


def _earlier(name: str, root: Path, text: str) -> Iterator[Manifest]:
    """The manifests of earlier launches of the same text, the newest first."""
    newest = latest_digest(name, root)
    for path in sorted(sweep_folder(root, name).glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            if path.stem != newest and text.encode() in path.read_bytes():
                yield read_manifest(path)
        except (OSError, UserError):
            continue  # a damaged one is of no use; the newest, which counts, has been read


def _means_the_same(path: Path, manifest: Manifest) -> bool:
    """Whether a file with the manifest's text names the same paths, and their contents have the same fingerprints."""
    try:
        load_plugins(manifest.plugins)
        parts = parts_of(manifest)
        if _places(path) != set().union(*map(places_of, parts)):
            return False
        return all(fingerprint_now(part) == part.fingerprint for part in parts)
    except UserError:
        return False  # planning it will raise the error


def _places(path: Path) -> set[str]:
    """The names and paths of all data and backbones of a sweep file."""
    data = expand_paths(read_sweep(path), path.absolute().parent)
    values = []
    for section, field in (("backbone", "name"), ("backbone", "weights"), ("task", "data")):
        parts = data.get(section)
        values += [
            part.get(field) for part in (parts if isinstance(parts, list) else [parts]) if isinstance(part, dict)
        ]
    return {
        str(place) for value in values for place in (value if isinstance(value, list) else [value]) if place is not None
    }


def _cells(manifest: Manifest) -> tuple[object, ...]:
    """All that the tables show of a plan; a run's spec also has paths, which do not matter."""
    return manifest.conditions, [run.model_dump(exclude={"spec"}) for run in manifest.runs]

"""Which sweep is meant by a command's SWEEP: a file, the name of one that was launched, or of a shipped one.

Who gives a file means what it says now. Where it was edited after its launch, it is planned anew, by `launch`, which
registers how; the library itself imports none of that. No torch here.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from tensloradist.errors import UserError, unknown
from tensloradist.results.layout import sweep_folder
from tensloradist.shipped import find_shipped, shipped_names
from tensloradist.wording import counted

if TYPE_CHECKING:
    from tensloradist.results.schema import Manifest

_planners: list[Callable[[Path], Manifest]] = []


@dataclass(frozen=True)
class FoundSweep:
    """A sweep with the runs that are meant.

    Attributes:
        edited: how a file that was edited since its launch differs from what was launched; None: it is as launched.
        remedy: the commands for the one and the other.
    """

    manifest: Manifest
    edited: str | None = None
    remedy: str = ""

    @property
    def note(self) -> str | None:
        """What a reader has to know where an edited file is used as it is now; None: it is as launched."""
        return f"{self.edited}. The file is used as it is now; {self.remedy}." if self.edited else None

    def require_launched(self, what: str) -> None:
        """Raises UserError for a file that was edited since; `what` says why it has to be as it was launched."""
        if self.edited:
            raise UserError(f"{self.edited}. {what}; {self.remedy}")


def plan_with(planner: Callable[[Path], Manifest]) -> None:
    """Say how a sweep file becomes a manifest; the last word counts."""
    _planners[:] = [planner]


def sweep_name(source: str, root: Path) -> str:
    """The name of a sweep that was launched into this results folder, given by its file or by its name.

    Raises:
        UserError: it was never launched there; lists those that were.
    """
    from tensloradist.config import read_sweep

    name = source
    if (path := _file_of(source, root)) is not None:
        named = read_sweep(path).get("name")
        if not isinstance(named, str):
            raise UserError(f"{path}: no `name:`, so it is not a sweep file")
        name = named
    if not (sweep_folder(root, name) / "latest").exists():
        launched = [path.parent.name for path in sorted((root / "sweeps").glob("*/latest"))]
        raise UserError(
            f"{unknown('launched sweep', name, launched)} It has not been launched with the results folder {root}; use "
            "--results, or `tensloradist launch`"
        )
    return name


def find_sweep(source: str, root: Path) -> FoundSweep:
    """The sweep that a file is now, or that was launched by a name.

    Raises:
        UserError: never launched into this results folder, a manifest that cannot be read, or an edited file that
            cannot be planned here.
    """
    from tensloradist.results.manifests import latest_manifest

    name, path = sweep_name(source, root), _file_of(source, root)
    launched = latest_manifest(name, root)
    if path is None:
        return FoundSweep(launched)
    text = sha256(path.read_bytes()).hexdigest()
    if text == launched.sweep_sha256:
        return FoundSweep(launched)
    manifest = _earlier(name, root, text) or _planned(path, name)
    if (manifest.conditions, manifest.runs) == (launched.conditions, launched.runs):
        return FoundSweep(launched)  # nothing was edited but words
    ours, theirs = ({run.run_id for run in one.runs} for one in (manifest, launched))
    launch = shlex.join(("tensloradist", "launch", source))
    edited = (
        f"{source} is not the sweep {name!r} as it was launched last: it has "
        f"{counted(len(ours - theirs), 'other run')} and lacks {len(theirs - ours)}"
    )
    remedy = f"to train what it says now: {launch}; for what was launched, give the name {name} in place of the file"
    return FoundSweep(manifest, edited, remedy)


def _file_of(source: str, root: Path) -> Path | None:
    """The sweep's file; None where the name of a launched sweep is given."""
    path = Path(source)
    if path.is_file():
        return path
    if (sweep_folder(root, source) / "latest").exists():
        return None
    if path.suffix in (".yaml", ".yml") or source in shipped_names("sweeps"):
        return find_shipped("sweeps", source)
    return None


def _earlier(name: str, root: Path, text: str) -> Manifest | None:
    """An earlier launch's manifest, of a file of just this text."""
    from tensloradist.results.manifests import read_manifest

    for path in sorted(sweep_folder(root, name).glob("*.json")):
        try:
            manifest = read_manifest(path)
        except UserError:
            continue  # a damaged one is no help; what counts is the newest, which has been read
        if manifest.sweep_sha256 == text:
            return manifest
    return None


def _planned(path: Path, name: str) -> Manifest:
    remedy = f"to see the sweep as it was launched, give its name: {name}"
    if not _planners:
        raise UserError(f"{path}: edited since it was launched, and nothing here can plan it; {remedy}")
    try:
        return _planners[0](path)
    except UserError as error:
        raise UserError(
            f"{path}: edited since it was launched, and it cannot be planned here ({error}); {remedy}"
        ) from error

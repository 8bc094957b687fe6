"""`launch.json`: the sweep's file, the results folder and the profile of a launch.

So a launched sweep can be launched again by its name, and commands can be suggested exactly as they have to be typed.
"""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tensloradist.errors import UserError
from tensloradist.files import write_once
from tensloradist.records import FORM, UnreadableRecord, read_record
from tensloradist.results.layout import sweep_folder
from tensloradist.results.sweeps import FoundSweep, find_sweep
from tensloradist.shipped import find_shipped, shipped_folder, shipped_names

FILE = "launch.json"
SWEEPS = "sweeps"


@dataclass(frozen=True)
class Origin:
    """Absolute paths of the sweep's file and the results folder, and the profile.

    Attributes:
        profile: an absolute path, or the name of a shipped one; None: launched on this machine.
        shipped: the name of a shipped sweep, whose path differs between installations.
    """

    sweep: str
    results: str
    profile: str | None = None
    shipped: str | None = None
    __pydantic_config__ = FORM

    @classmethod
    def of(cls, sweep: Path, root: Path, profile: str | None = None) -> Origin:
        file, folder = sweep.resolve(), shipped_folder(SWEEPS).resolve()  # a checkout may be a link
        shipped = file.relative_to(folder).with_suffix("").as_posix() if file.is_relative_to(folder) else None
        if profile is not None and Path(profile).is_file():
            profile = str(Path(profile).absolute())
        return cls(str(sweep.absolute()), str(root.absolute()), profile, shipped)

    @classmethod
    def read(cls, folder: Path) -> Origin | None:
        """The origin of a launch; None for a launch from before it was recorded.

        Raises:
            UnreadableRecord: damaged, made by a newer version, or not readable.
        """
        return read_record(folder / FILE, cls, "the record of a launch's origin")

    def write(self, folder: Path) -> None:
        write_once(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

    @property
    def source(self) -> str:
        """The argument that commands take as the sweep."""
        return self.shipped or self.sweep


def last_origin(name: str, root: Path) -> Origin | None:
    """The newest origin on record that can be read, of a sweep's launches."""
    for folder in sorted((sweep_folder(root, name) / "launches").glob("*"), reverse=True):
        with suppress(UnreadableRecord):
            if (origin := Origin.read(folder)) is not None:
                return origin
    return None


def sweep_to_launch(source: str, root: Path, again: bool = False) -> str:
    """The sweep to launch by a file or a name: a given file, else a shipped sweep, or one that was launched here.

    Args:
        again: a launched sweep is meant, so it takes precedence over a shipped one of the same name.

    Raises:
        UserError: a shipped and another launched sweep share the name, or the launched one's file is unknown or gone.
    """
    if Path(source).is_file():
        return source
    shipped, origin = source in shipped_names(SWEEPS), last_origin(source, root)
    if origin is None:
        if not shipped and (sweep_folder(root, source) / "latest").is_file():
            raise UserError(f"{source}: launched here, but from which file is not on record; give the sweep's file")
        return source
    if shipped and origin.shipped != source and not again:
        file = shipped_folder(SWEEPS) / f"{source}.yaml"
        raise UserError(
            f"{source}: the shipped sweep {file}, or the one that was launched here, {origin.sweep}? Give the file"
        )
    if origin.shipped is None and not Path(origin.sweep).is_file():
        raise UserError(f"{source}: launched here from {origin.sweep}, which is gone; give the sweep's file")
    return origin.source


def require_unedited(source: str, root: Path) -> None:
    """Check that the file of a sweep that is given by its name still plans the launched runs.

    Raises:
        UserError: the file was edited since; the message says how, and what to type instead.
    """
    if Path(source).is_file():
        return
    file = find_shipped(SWEEPS, sweep_to_launch(source, root, again=True))
    found = find_sweep(str(file), root)
    if found.edited:
        launch = shlex.join(("tensloradist", "launch", str(file), "--failed"))
        raise UserError(
            f"{found.edited}, so the runs that were launched cannot be planned from it. To train those that failed of "
            f"the runs in the file: {launch}; for the others, undo the change"
        )


@dataclass(frozen=True)
class Hints:
    """Commands to continue with a launched sweep, as they have to be typed.

    Args:
        results: the results folder if the command that prints them was given one; None: it is found without.
    """

    name: str
    origin: Origin | None
    results: Path | None = None

    @classmethod
    def of(cls, source: str, found: FoundSweep, root: Path, results: Path | None) -> Hints:
        """The commands for the sweep of a command's argument; an edited file is named by its path."""
        name = found.manifest.name
        origin = last_origin(name, root)
        if found.edited:
            profile = origin.profile if origin else None
            origin = Origin(str(Path(source).absolute()), str(root.absolute()), profile)
        return cls(name, origin, results)

    def status(self) -> str:
        return self._command("status", self.name, "--watch")

    def release(self) -> str:
        return self._command("hold", self.name, "--release")

    def launch(self) -> str:
        return self._command("launch", self._source, *self._profile)

    def launch_failed(self, cause: str) -> str:
        return self._command("launch", self._source, "--failed", cause, *self._profile)

    @property
    def _source(self) -> str:
        return self.origin.source if self.origin else self.name

    @property
    def _profile(self) -> tuple[str, ...]:
        return ("--profile", self.origin.profile) if self.origin and self.origin.profile else ()

    def _command(self, *words: str) -> str:
        where = ("--results", str(self.results)) if self.results else ()
        return shlex.join(("tensloradist", *words, *where))

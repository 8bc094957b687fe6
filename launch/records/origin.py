"""Where a launch came from, on record in its folder: the sweep's file, the results folder and the profile.

So a sweep that was launched here can be launched again by its name, and hints are commands that work as printed.
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
    """`launch.json`: absolute paths of the sweep's file and the results folder, and the profile.

    `shipped`: the sweep's name if it is a shipped one, which may lie elsewhere in another installation. `profile`: an
    absolute path, or a shipped one's name; None: launched on this machine.
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
        """The origin of a launch; None for one from before it was recorded.

        Raises:
            UnreadableRecord: damaged, made by a newer version, or not readable.
        """
        return read_record(folder / FILE, cls, "the record of a launch's origin")

    def write(self, folder: Path) -> None:
        write_once(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")

    @property
    def source(self) -> str:
        """What commands take as the sweep."""
        return self.shipped or self.sweep


def last_origin(name: str, root: Path) -> Origin | None:
    """The origin of a sweep's newest launch that says it, and can be read."""
    for folder in sorted((sweep_folder(root, name) / "launches").glob("*"), reverse=True):
        with suppress(UnreadableRecord):
            if (origin := Origin.read(folder)) is not None:
                return origin
    return None


def sweep_to_launch(source: str, root: Path, again: bool = False) -> str:
    """What is meant by a sweep's file or name: a file as given, else a shipped sweep, or one that was launched here.

    Args:
        again: a launched sweep is meant, so it comes before a shipped one of its name.

    Raises:
        UserError: a shipped and another launched sweep have the name, or the launched one's file is not known or gone.
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
    """Of a sweep that is given by its name, what was launched is meant, and its file is what a launch reads.

    Raises:
        UserError: the file was edited since; says how, and what to give in its place.
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
    """Commands to go on with a launched sweep, as they are to be typed.

    Args:
        results: the results folder where it was given to the command that prints them; None: found without.
    """

    name: str
    origin: Origin | None
    results: Path | None = None

    @classmethod
    def of(cls, source: str, found: FoundSweep, root: Path, results: Path | None) -> Hints:
        """The commands for a sweep as a command's argument gives it: an edited file stays that file."""
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

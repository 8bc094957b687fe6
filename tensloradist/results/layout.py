"""The layout of a results folder. Imports no torch."""

from __future__ import annotations

import glob
import os
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from tensloradist.errors import UserError

ATTEMPT_DIGITS = 4
MOST_DIGITS = 12  # of any number in a name: updates are counted in eight
CLASSES = "classes.json"  # of an attempt: the names of the labels 0, 1, …, where the task knows them


def written_number(text: str) -> int | None:
    """The number in a part of a file's name; None if this code did not write it."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


def results_root(given: str | os.PathLike[str] | None = None) -> Path:
    """The results folder: the given one, else TENSLORADIST_RESULTS, else ./results."""
    return Path(given or os.environ.get("TENSLORADIST_RESULTS") or "results")


class RunFolder:
    """The folder of one run, `results/runs/<run_id>`."""

    def __init__(self, root: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = root / "runs" / run_id
        self.spec = self.path / "spec.json"
        self.result = self.path / "result.json"
        self.attempts = self.path / "attempts"

    @property
    def can_be_worked_in(self) -> bool:
        """Whether this user may read and write in it, or it does not exist yet."""
        try:
            self.path.lstat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return os.access(self.path, os.R_OK | os.W_OK | os.X_OK)

    def attempt(self, number: int) -> Path:
        return self.attempts / f"{number:0{ATTEMPT_DIGITS}d}"

    def attempt_numbers(self) -> list[int]:
        if not self.attempts.is_dir():
            return []
        numbers = (written_number(path.name) for path in self.attempts.iterdir())
        return sorted(number for number in numbers if number is not None)


def find_run(wanted: str, root: Path) -> RunFolder:
    """The run of a results folder with this id, or the only one whose id begins with it.

    Raises:
        UserError: no such run, or an ambiguous beginning.
    """
    folder = root / "runs"
    known = (path.name for path in folder.glob(f"{glob.escape(wanted)}*") if path.is_dir())
    return RunFolder(root, run_id_of(wanted, known, f"{folder} (`status SWEEP --json` lists the ids)"))


def run_id_of(wanted: str, known: Iterable[str], where: str) -> str:
    """The run id that is `wanted`, or the only one that begins with it.

    Args:
        where: what the ids are known from, for messages.

    Raises:
        UserError: no such run, or an ambiguous beginning.
    """
    found = sorted(run_id for run_id in known if wanted and run_id.startswith(wanted))
    if len(found) == 1 or wanted in found:
        return wanted if wanted in found else found[0]
    if not found:
        raise UserError(f"run {wanted!r}: none in {where} has an id that begins with it")
    shown = ", ".join(found[:4]) + ", …" * (len(found) > 4)
    raise UserError(f"Ambiguous run id {wanted!r}: {len(found)} matches ({shown}); give more characters.")


def sweep_folder(root: Path, name: str) -> Path:
    """The folder of a sweep's manifests, `results/sweeps/<name>`."""
    return root / "sweeps" / name


def new_launch_folder(root: Path, name: str) -> Path:
    """The folder for the files of a sweep's next launch: an absolute path that did not exist before."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return (sweep_folder(root, name) / "launches" / f"{stamp}-{uuid.uuid4().hex[:6]}").absolute()

"""Where things lie in a results folder. No torch here."""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

from tensloradist.errors import UserError

ATTEMPT_DIGITS = 4
MOST_DIGITS = 12  # of any number in a name: updates are counted in eight
CLASSES = "classes.json"  # of an attempt: the names of the labels 0, 1, …, where the task knows them


def written_number(text: str) -> int | None:
    """The number that a part of a file's name is, as this code writes numbers; None for what others have put there."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


def results_root(given: str | os.PathLike[str] | None = None) -> Path:
    """The results folder: as given, else TENSLORADIST_RESULTS, else ./results."""
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
        """Whether this user may read and write in it, or it is not there yet; not in one that another user closed."""
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
    """The one run of a results folder whose id begins so.

    Raises:
        UserError: none, or several.
    """
    folder = root / "runs"
    found = sorted(path.name for path in folder.glob(f"{wanted}*") if path.is_dir()) if wanted else []
    if len(found) == 1 or wanted in found:
        return RunFolder(root, wanted if wanted in found else found[0])
    if not found:
        raise UserError(f"run {wanted!r}: none in {folder} has an id that begins so (`status SWEEP --json` lists them)")
    raise UserError(f"run {wanted!r}: {len(found)} ids begin so ({', '.join(found[:4])}, …); give more of it")


def sweep_folder(root: Path, name: str) -> Path:
    """The folder of a sweep's manifests, `results/sweeps/<name>`."""
    return root / "sweeps" / name


def new_launch_folder(root: Path, name: str) -> Path:
    """Where the files of a sweep's next launch go, as an absolute path: never one that was there before."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return (sweep_folder(root, name) / "launches" / f"{stamp}-{uuid.uuid4().hex[:6]}").absolute()

"""Where things lie in a results folder, and the two ways to write there without losing anything.

What may be replaced (caches, pointers) is written to a temporary file, synced and renamed over; what may not
(specifications, results, claims) is linked into place, so that the first writer wins for ever. No torch here.
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from tensloradist.errors import UserError

ATTEMPT_DIGITS = 4
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


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

    def attempt(self, number: int) -> Path:
        return self.attempts / f"{number:0{ATTEMPT_DIGITS}d}"

    def attempt_numbers(self) -> list[int]:
        if not self.attempts.is_dir():
            return []
        return sorted(int(path.name) for path in self.attempts.iterdir() if path.name.isdigit())


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


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        UserError: something that is no folder is in the way, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); choose another folder with --results") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: not writable; give your group write access, or choose another with --results")


def write_synced(path: Path, content: str | bytes) -> None:
    """Write a new file and make its content durable; nothing is left where that fails.

    Raises:
        FileExistsError: it exists.
        OSError: the disk is full, for one.
    """
    with path.open("xb") as file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


def write_replacing(path: Path, content: str | bytes) -> None:
    """Write a file whole, in the place of an older one if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write_synced(temporary, content)
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_once(path: Path, text: str) -> bool:
    """Write a file whole unless it exists; False if it does. Of several writers at once, exactly one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    write_synced(temporary, text)
    try:
        return link_once(temporary, path)
    finally:
        temporary.unlink()


def link_once(source: Path, target: Path) -> bool:
    """Link a synced file to its final name; False if that name is taken. The source must have no other link yet.

    On NFS a retried link can report failure after success, or the reverse: the number of links decides.

    Raises:
        UserError: a file system without hard links.
    """
    before = os.stat(source).st_nlink
    try:
        os.link(source, target)
    except FileExistsError:
        pass  # what counts is decided below
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise UserError(
                f"{target.parent}: this file system has no hard links ({error.strerror}), which claims and results "
                "need; put the results on another with --results (`tensloradist doctor` tells)"
            ) from error
        raise
    made = os.stat(source).st_nlink > before
    sync_folder(target.parent)
    return made

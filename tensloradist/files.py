"""Crash-safe files: two ways to write that lose nothing. Imports no torch.

Files that may be replaced (caches, pointers) are written to a temporary file, synced and renamed. Files that must not
be replaced (specifications, results, claims) are linked into place, so that the first writer wins for good.
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from tensloradist.errors import UserError
from tensloradist.names import encodable

FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        UserError: a file is in the way, or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror}); choose another with --results") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: not writable; give your group write access, or choose another with --results")


def write_synced(path: Path, content: str | bytes) -> None:
    """Write a new file and make its content durable; leave nothing behind if that fails.

    Raises:
        FileExistsError: the file exists.
        OSError: for example, the disk is full.
    """
    with path.open("xb") as file:
        try:
            file.write(encodable(content).encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


def reserve(path: Path, size: int) -> None:
    """Make a file of this many bytes, whose blocks `write_reserved` can use when the disk is full."""
    write_synced(path, b" " * size)


def write_reserved(path: Path, text: str, reserved: Path) -> bool:
    """Write text into a reserved file and link it to `path`, which needs neither free blocks nor inodes.

    Spaces fill the rest of the reserved size. Only one writer gets the reserved file, so none can change what another
    has written. Returns False if `path` exists or another writer is at work.

    Raises:
        ValueError: the text is longer than the reserved size.
        OSError: for example, the disk is read-only.
    """
    content, own = text.encode(), reserved.with_name(f"{reserved.name}.{uuid.uuid4().hex}")
    if os.path.lexists(path):
        return False
    try:
        os.rename(reserved, own)
    except FileNotFoundError:
        return False
    try:
        if len(content) > (size := own.stat().st_size):
            raise ValueError(f"{len(content)} bytes do not fit into the {size} reserved bytes")
        with own.open("r+b") as file:
            file.write(content.ljust(size))
            file.flush()
            os.fsync(file.fileno())
        return link_once(own, path)
    finally:
        own.unlink()


def write_replacing(path: Path, content: str | bytes) -> None:
    """Write a file atomically, replacing an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    write_synced(temporary, content)
    os.replace(temporary, path)
    sync_folder(path.parent)


def write_once(path: Path, text: str) -> bool:
    """Write a file atomically unless it exists; False if it does. Of concurrent writers, exactly one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    write_synced(temporary, text)
    try:
        return link_once(temporary, path)
    finally:
        temporary.unlink()


def link_once(source: Path, target: Path) -> bool:
    """Link a synced file to its final name; False if that name is taken. The source must have no other link yet.

    On NFS a retried link may report failure after success, or the reverse, so the number of links decides.

    Raises:
        UserError: the file system has no hard links.
    """
    before = os.stat(source).st_nlink
    try:
        os.link(source, target)
    except FileExistsError:
        pass  # the number of links decides
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise UserError(
                f"{target.parent}: this file system has no hard links ({error.strerror}), which claims and results "
                "need; choose a folder on another one with --results (`tensloradist doctor` checks it)"
            ) from error
        raise
    made = os.stat(source).st_nlink > before
    sync_folder(target.parent)
    return made


def link_aside(path: Path, kind: str) -> Path:
    """Give a file the additional, unused name `NAME.KIND-N`, and return it; keep such a name if it has one.

    Args:
        path: a folder in a file's place can have only one name, so it is moved.

    Raises:
        FileNotFoundError: the file no longer exists.
    """
    marked = f"{path.name}.{kind}-"
    taken = [entry for entry in os.listdir(path.parent) if entry.startswith(marked)]
    digits = (entry.removeprefix(marked) for entry in taken)
    number = max((int(text) for text in digits if text.isascii() and text.isdecimal()), default=0) + 1
    if path.is_dir():
        aside = path.with_name(f"{marked}{number}")
        os.rename(path, aside)
        return aside
    for aside in (path.with_name(entry) for entry in taken):
        if os.path.samefile(path, aside):  # named by an interrupted or concurrent call
            return aside
    while True:
        aside = path.with_name(f"{marked}{number}")
        if link_once(path, aside) or os.path.samefile(path, aside):
            return aside
        number += 1


def take_away(path: Path, aside: Path, successor: Path | None = None) -> bool:
    """Free the name of a file that has another name, or give it to a successor; False if another file has it by now.

    Args:
        aside: the file's other name, from `link_aside`.
        successor: takes over the name in one step, so that it is never free.
    """
    temporary = _temporary(path)
    try:
        if not os.path.samefile(path, aside):
            return False
        if successor is not None:
            os.link(successor, temporary)
            os.replace(temporary, path)
            temporary.unlink(missing_ok=True)  # POSIX: rename does nothing between two names of one file
            sync_folder(path.parent)
            return True
        os.rename(path, temporary)
    except FileNotFoundError:
        return False
    is_same = os.path.samefile(temporary, aside)
    if not is_same:  # another file took the name in this moment, so it gets it back
        link_once(temporary, path)
    if os.stat(temporary).st_nlink > 1:
        temporary.unlink()
    sync_folder(path.parent)
    return is_same


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")

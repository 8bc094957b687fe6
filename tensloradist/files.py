"""Files that outlive a crash: the two ways to write that lose nothing. No torch here.

What may be replaced (caches, pointers) is written to a temporary file, synced and renamed over; what may not
(specifications, results, claims) is linked into place, so that the first writer wins for ever.
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
            file.write(encodable(content).encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            path.unlink()
            raise


def reserve(path: Path, size: int) -> None:
    """Make a file of so many bytes whose place `write_reserved` can use when the disk is full."""
    write_synced(path, b" " * size)


def write_reserved(path: Path, text: str, reserved: Path) -> bool:
    """Write text in the place of a reserved file and link it to `path`: needs neither blocks nor inodes of the disk.

    What is left of the reserved size stays spaces. One writer alone gets the reserved file, so that none can change
    what another has written. False if `path` exists already, or another writer is at it.

    Raises:
        ValueError: the text is longer than what was reserved.
        OSError: the disk is read-only, for one.
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
            raise ValueError(f"{len(content)} bytes do not fit into the {size} that were reserved")
        with own.open("r+b") as file:
            file.write(content.ljust(size))
            file.flush()
            os.fsync(file.fileno())
        return link_once(own, path)
    finally:
        own.unlink()


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


def link_aside(path: Path, kind: str) -> Path:
    """Give a file the further name `NAME.KIND-N` that no other has; where it has such a name already, that is it.

    Args:
        path: a folder in a file's place can have one name alone, and is moved.

    Raises:
        FileNotFoundError: the file is gone.
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
        if os.path.samefile(path, aside):  # whoever named it so was interrupted, or is at it
            return aside
    while True:
        aside = path.with_name(f"{marked}{number}")
        if link_once(path, aside) or os.path.samefile(path, aside):
            return aside
        number += 1


def take_away(path: Path, aside: Path, successor: Path | None = None) -> bool:
    """Free the name of a file that has another, or give it to a successor; False if it is another file's by now.

    Args:
        aside: the file's other name, by `link_aside`.
        successor: takes the name in one step, so that nobody finds it free meanwhile.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        if not os.path.samefile(path, aside):
            return False
        if successor is not None:
            os.link(successor, temporary)
            os.replace(temporary, path)
            temporary.unlink(missing_ok=True)  # POSIX: between two names of one file, nothing is renamed
            sync_folder(path.parent)
            return True
        os.rename(path, temporary)
    except FileNotFoundError:
        return False
    ours = os.path.samefile(temporary, aside)
    if not ours:  # the name was given to another file in this moment: that one gets it back
        link_once(temporary, path)
    if os.stat(temporary).st_nlink > 1:
        temporary.unlink()
    sync_folder(path.parent)
    return ours

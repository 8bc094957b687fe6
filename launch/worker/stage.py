"""Copies of data and backbones on a node's own disk: made once a node, locked, and verified by their hash.

A copy's name is the hash of its content, so that two sweeps share one and an edited original gets another.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_path

RESERVE = 2**28  # bytes that stay free on the node's disk


def stage(paths: Mapping[str, Path], target: Path) -> dict[str, Path]:
    """Copies of files or folders below `target`, by the names given for them.

    Of several workers on a node, one copies and the others wait for it.

    Raises:
        UserError: the node's disk is too small, cannot be written, or a copy differs from its original.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"stage: {target}: cannot be made on this node ({error.strerror})") from error
    return {name: _copy_of(path, target) for name, path in paths.items()}


def _copy_of(path: Path, target: Path) -> Path:
    digest = hash_path(path)
    copy = target / digest / path.name
    if copy.exists():
        return copy
    with _locked(target / f"{digest}.lock"):
        if copy.exists():  # made while this worker waited
            return copy
        needed, free = _bytes(path), shutil.disk_usage(target).free
        if needed + RESERVE > free:
            raise UserError(
                f"stage: {target}: {path} needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} are free on this node; "
                "choose a larger disk, or leave stage out of the profile"
            )
        temporary = target / f".{digest}.{uuid.uuid4().hex}"
        try:
            (temporary).mkdir()
            if path.is_dir():
                _copy_folder(path, temporary / path.name)
            else:
                shutil.copy2(path, temporary / path.name)
            if hash_path(temporary / path.name) != digest:
                raise UserError(f"stage: the copy of {path} in {target} differs from it; is a disk failing?")
            os.rename(temporary, target / digest)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return copy


def _copy_folder(source: Path, target: Path) -> None:
    """Copy the targets of links, but a file with several names once, as an image folder counts it."""
    copied: dict[tuple[int, int], str] = {}

    def copy(file: str, new: str) -> str:
        status = os.stat(file)
        first = copied.setdefault((status.st_dev, status.st_ino), new)
        if first != new:
            os.link(first, new)
            return new
        return str(shutil.copy2(file, new))

    shutil.copytree(source, target, copy_function=copy, ignore=_leading_nowhere)


def _leading_nowhere(folder: str, names: list[str]) -> list[str]:
    """Broken links, and links to a folder that contains them."""
    inside = os.path.realpath(folder) + os.sep
    paths = {name: os.path.join(folder, name) for name in names}
    return [
        name
        for name, path in paths.items()
        if not os.path.exists(path) or inside.startswith(os.path.realpath(path) + os.sep)
    ]


def _bytes(path: Path) -> int:
    """The size of a copy at most: files with several names are copied once."""
    if path.is_file():
        return path.stat().st_size
    sizes = {}
    for folder, folders, names in os.walk(path, followlinks=True):
        nowhere = _leading_nowhere(folder, folders + names)
        folders[:] = [name for name in folders if name not in nowhere]
        for name in set(names) - set(nowhere):
            status = os.stat(os.path.join(folder, name))
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

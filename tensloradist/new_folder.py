"""A folder that appears whole or not at all: written under a temporary name beside its place, synced, renamed.

An empty folder that is there already stays (a mount, a folder with permissions of its own): the files are written
below it under a temporary name, and then moved up.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from tensloradist.errors import UserError
from tensloradist.files import sync_folder


def refuse_existing(target: Path) -> None:
    """Raise UserError unless the target is absent or an empty folder: an export never replaces anything."""
    if not os.path.lexists(target) or is_empty_folder(target):
        return
    what = "is not empty" if target.is_dir() else "exists already"
    raise UserError(f"{target}: {what}; choose another folder, nothing is replaced")


def is_empty_folder(path: Path) -> bool:
    """Whether the path is an empty folder. Raises UserError if it may not be read."""
    try:
        return path.is_dir() and not any(path.iterdir())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); choose another folder") from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder whose content becomes that of `target` when the block ends, and vanishes when it raises.

    Raises:
        UserError: the target exists and is not an empty folder, it cannot be written, or the disk is full.
    """
    refuse_existing(target)
    inside = os.path.isdir(target)
    name = f".{target.name}.{uuid.uuid4().hex}"
    temporary = target / name if inside else target.with_name(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"{target}: cannot be made ({error.strerror}); choose another folder") from error
    try:
        yield temporary
        _sync(temporary)
        if inside:
            _move_up(temporary, target)
        else:
            refuse_existing(target)
            temporary.rename(target)
            sync_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            raise UserError(f"{target}: cannot be written ({error}); nothing of it is left there") from error
        raise


def _move_up(temporary: Path, target: Path) -> None:
    """Move the content of a folder into the one above, which must have nothing else; undo it if that fails."""
    names = [path.name for path in temporary.iterdir()]
    if any(path != temporary for path in target.iterdir()):
        raise UserError(f"{target}: another process has written into it meanwhile; choose another folder")
    moved: list[str] = []
    try:
        for name in names:
            (temporary / name).rename(target / name)
            moved.append(name)
        temporary.rmdir()
        sync_folder(target)
    except OSError:
        for name in moved:
            (target / name).rename(temporary / name)
        raise


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    sync_folder(folder)

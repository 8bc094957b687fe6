"""A folder that appears whole or not at all: written under a temporary name beside its place, synced, renamed."""

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
    """Raise UserError if something is there already: an export never replaces anything."""
    if target.exists() or target.is_symlink():
        raise UserError(f"{target}: exists already; choose another folder, nothing is replaced")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends, and vanishes when it raises.

    Raises:
        UserError: the target exists, the folder above it cannot be written, or the disk is full.
    """
    refuse_existing(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"{target}: cannot be made ({error.strerror}); choose another folder") from error
    try:
        yield temporary
        _sync(temporary)
        refuse_existing(target)
        temporary.rename(target)
        sync_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            raise UserError(f"{target}: cannot be written ({error}); nothing of it is left there") from error
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

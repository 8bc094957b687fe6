"""Checkpoint folders: written whole, verified by checksums, found again by any later attempt. Imports no torch.

`attempts/NNNN/checkpoints/step-00000120/` has files of tensors, `state.json`, and the marker `COMPLETE` with the
SHA-256 of each; a folder without a marker, or with a file that does not match, is damaged and skipped with a warning.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensloradist.files import sync_folder, write_synced
from tensloradist.fingerprint import sha256_of
from tensloradist.records import NewerRecord, UnreadableRecord, read_object
from tensloradist.results.layout import RunFolder, written_number

MARKER = "COMPLETE"
KEPT = 2  # of an attempt: the newest, and the one before it in case the newest is damaged
log = logging.getLogger("tensloradist")


class DamagedCheckpoint(Exception):
    """A checkpoint folder that cannot be trusted, and why."""


@dataclass(frozen=True)
class Checkpoint:
    """A valid checkpoint: its folder, the attempt that wrote it, and updates done."""

    folder: Path
    attempt: int
    step: int

    def state(self) -> dict[str, Any]:
        """Its state.json."""
        return read_state(self.folder)


def write_checkpoint(
    attempt: Path, step: int, state: dict[str, Any], write_tensors: Callable[[Path], list[Path]]
) -> Path:
    """Write one checkpoint of an attempt, whole or not at all, and keep only the one before it besides.

    Args:
        write_tensors: writes the tensor files (synced) into the folder it is given, and returns them.

    Raises:
        OSError: for one, the disk is full. Nothing is left of the new checkpoint then; earlier ones are intact.
    """
    parent = attempt / "checkpoints"
    parent.mkdir(exist_ok=True)
    target, temporary = parent / f"step-{step:08d}", parent / f".step-{step:08d}.{uuid.uuid4().hex}"
    if (target / MARKER).exists():
        return target
    try:
        temporary.mkdir()
        files = write_tensors(temporary)
        write_synced(temporary / "state.json", json.dumps(state) + "\n")
        digests = {path.name: sha256_of(path) for path in (*files, temporary / "state.json")}
        sync_folder(temporary)
        if target.exists():  # without a marker: a write that a crash cut off
            shutil.rmtree(target)
        os.rename(temporary, target)
        sync_folder(parent)
        write_synced(target / f".{MARKER}", json.dumps(digests) + "\n")
        os.rename(target / f".{MARKER}", target / MARKER)
        sync_folder(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not (target / MARKER).exists():
            shutil.rmtree(target, ignore_errors=True)
        raise
    _remove_superseded(attempt)
    return target


def _remove_superseded(attempt: Path) -> None:
    """Remove the checkpoints that this attempt's two newest replace: its own older ones, and those of earlier attempts.

    Clusters have quotas on files, and a run that is often preempted has many attempts. The `checkpoints` folders stay,
    since the orphan of an earlier attempt may still write there, or remove the same files.
    """
    own = sorted(path for path in (attempt / "checkpoints").glob("step-*") if _step(path) is not None)
    if len(own) < KEPT:
        return
    newest, earlier = own[-1].name, attempt.parent.glob("*/checkpoints/step-*")
    superseded = [old for old in earlier if old.parents[1].name < attempt.name and old.name <= newest]
    for old in (*own[:-KEPT], *superseded):
        shutil.rmtree(old, ignore_errors=True)


def newest_valid(run: RunFolder) -> Checkpoint | None:
    """The valid checkpoint of the most updates, of any attempt; damaged ones are reported in the log.

    Raises:
        NewerRecord: a newer version has written it.
    """
    for checkpoint in _candidates(run):
        try:
            verify(checkpoint.folder)
        except DamagedCheckpoint as damage:
            log.warning("checkpoint %s is damaged (%s); the one before it is taken", checkpoint.folder, damage)
            continue
        return checkpoint
    return None


def kept_step(run: RunFolder) -> int:
    """The updates done by the newest complete checkpoint of any attempt, by its marker; 0 without one."""
    whole = (checkpoint.step for checkpoint in _candidates(run) if (checkpoint.folder / MARKER).exists())
    return next(whole, 0)


def newer_checkpoint(run: RunFolder) -> NewerRecord | None:
    """The error for a newest checkpoint that a newer version wrote; None if none did."""
    for checkpoint in _candidates(run):
        try:
            _digests(checkpoint.folder)
        except NewerRecord as error:
            return error
        except (FileNotFoundError, UnreadableRecord):
            continue
        return None
    return None


def read_state(folder: Path) -> dict[str, Any]:
    """The state.json of a verified checkpoint.

    Raises:
        UnreadableRecord: damaged since, or not readable.
    """
    path = folder / "state.json"
    state = read_object(path, "the checkpoint's state")
    if state is None:
        raise UnreadableRecord(path, "the checkpoint's state is missing")
    return state


def _candidates(run: RunFolder) -> Iterator[Checkpoint]:
    found = []
    for number in run.attempt_numbers():
        for folder in (run.attempt(number) / "checkpoints").glob("step-*"):
            if (step := _step(folder)) is not None:
                found.append(Checkpoint(folder, number, step))
    yield from sorted(found, key=lambda checkpoint: (checkpoint.step, checkpoint.attempt), reverse=True)


def _step(folder: Path) -> int | None:
    return written_number(folder.name.removeprefix("step-"))


def verify(folder: Path) -> None:
    """Check that the marker exists and every file is as it was written.

    Raises:
        DamagedCheckpoint: something is missing or changed.
        NewerRecord: a newer version has written it.
    """
    try:
        for name, digest in _digests(folder).items():
            if Path(name).name != name or sha256_of(folder / name) != digest:
                raise DamagedCheckpoint(f"{name} is not as it was written")
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{Path(str(error.filename)).name} is missing") from error
    except OSError as error:
        raise DamagedCheckpoint(f"{Path(str(error.filename)).name} cannot be read: {error.strerror}") from error
    except NewerRecord:
        raise
    except UnreadableRecord as error:
        raise DamagedCheckpoint(f"its marker is not readable: {error}") from error


def _digests(folder: Path) -> dict[str, Any]:
    """File name -> SHA-256, by the marker; a later format of checkpoints has a higher `format_version` there."""
    path = folder / MARKER
    digests = read_object(path, "the checkpoint's marker", key="format_version")
    if digests is None:
        raise FileNotFoundError(errno.ENOENT, "missing", str(path))
    return digests


def remove_checkpoints(run: RunFolder) -> None:
    """Remove all checkpoints of a run that has its result: they are of no more use, and clusters limit files."""
    for number in run.attempt_numbers():
        shutil.rmtree(run.attempt(number) / "checkpoints", ignore_errors=True)

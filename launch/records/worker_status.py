"""The status of a launch's workers: each writes its own, `worker-NAME.json`, over the one before."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tensloradist.files import write_replacing
from tensloradist.records import DamagedRecord, ProcessNumber, UnreadableRecord, read_object

LAST = ("ended", "crashed")  # states after which nothing more comes


class WorkerStatus(BaseModel):
    """What a worker is doing. Which fields are given depends on its state; progress may have more of them.

    Attributes:
        time: unix seconds at which it was written.
        code_changed: whether the worker runs other code than was submitted.
        row, task, seed: of the run that it trains.
        status: how that run ended.
        error, log: of a worker that crashed.
    """

    model_config = ConfigDict(extra="allow", strict=True)
    state: str
    time: float = 0.0
    host: str
    pid: ProcessNumber
    code_changed: bool = False
    run_id: str | None = None
    row: str | None = None
    task: str | None = None
    seed: int | None = None
    status: str | None = None
    error: str | None = None
    log: str | None = None
    epoch: int = 0
    step: int = 0
    steps: int | None = None
    loss: float | None = None

    def write(self, path: Path) -> None:
        """Raises OSError, for one on a full disk."""
        write_replacing(path, json.dumps(self.model_dump(exclude_unset=True)))

    @property
    def has_ended(self) -> bool:
        """Whether the worker has ended, as it says itself or, on this machine, because its process is gone."""
        if self.state in LAST:
            return True
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


def read_word(path: Path) -> WorkerStatus | None:
    """A worker's status; None if there is none.

    Raises:
        UnreadableRecord: damaged, made by a newer version, or not readable.
    """
    data = read_object(path, "a worker's status")
    if data is None:
        return None
    try:
        return WorkerStatus.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DamagedRecord(path, "a worker's status", f"{first['loc'][0]}: {first['msg']}") from error


def read_words(folder: Path) -> tuple[list[WorkerStatus], list[UnreadableRecord]]:
    """The statuses of a launch's workers, and those that cannot be read."""
    words, unreadable = [], []
    for path in sorted(folder.glob("worker-*.json")):
        try:
            if (word := read_word(path)) is not None:
                words.append(word)
        except UnreadableRecord as error:
            unreadable.append(error)
    return words, unreadable


def is_at_work(words: Sequence[WorkerStatus], unreadable: Sequence[UnreadableRecord] = ()) -> bool:
    """Whether a worker does not say that it has ended; one whose status cannot be read may be at work."""
    return bool(unreadable) or any(word.state not in LAST for word in words)


def last_line(path: Path, but: re.Pattern[str] | None = None) -> str | None:
    """The last line of a log that is not blank; None if there is none, or no log.

    Args:
        but: lines that begin like this are skipped.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 16_384))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    telling = (line for line in reversed(lines) if line.strip() and not (but and but.match(line)))
    return next((" ".join(line.split()) for line in telling), None)

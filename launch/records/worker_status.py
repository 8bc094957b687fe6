"""What the workers of a launch say of themselves, in `worker-NAME.json`, each in place of its last word."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tensloradist.records import DamagedRecord, ProcessNumber, UnreadableRecord, read_object

LAST = ("ended", "crashed")  # states after which nothing more comes


class _Word(BaseModel):
    """What every word says; the rest depends on its state."""

    model_config = ConfigDict(extra="allow", strict=True)
    state: str
    host: str
    pid: ProcessNumber
    code_changed: bool = False
    error: str | None = None
    log: str | None = None
    run_id: str | None = None
    row: str | None = None
    task: str | None = None
    seed: int | None = None
    step: int = 0
    steps: int = 1
    epoch: int = 0
    loss: float | None = None


def read_word(path: Path) -> dict[str, Any] | None:
    """A worker's last word; None where there is none.

    Raises:
        UnreadableRecord: damaged, made by a newer version, or not readable.
    """
    word = read_object(path, "a worker's word")
    if word is None:
        return None
    try:
        _Word.model_validate(word)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DamagedRecord(path, "a worker's word", f"{first['loc'][0]}: {first['msg']}") from error
    return word


def read_words(folder: Path) -> tuple[list[dict[str, Any]], list[UnreadableRecord]]:
    """The last words of a launch's workers, and those that cannot be read."""
    words, unreadable = [], []
    for path in sorted(folder.glob("worker-*.json")):
        try:
            if (word := read_word(path)) is not None:
                words.append(word)
        except UnreadableRecord as error:
            unreadable.append(error)
    return words, unreadable


def is_at_work(words: Sequence[dict[str, Any]], unreadable: Sequence[UnreadableRecord] = ()) -> bool:
    """Whether a worker has not said its last word; one whose word cannot be read may be at work."""
    return bool(unreadable) or any(word["state"] not in LAST for word in words)


def has_ended(word: dict[str, Any]) -> bool:
    """Whether a worker has said its last word, or its process, if it was on this machine, is gone."""
    if word["state"] in LAST:
        return True
    if word["host"] != socket.gethostname():
        return False
    try:
        os.kill(word["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def last_line(path: Path, but: re.Pattern[str] | None = None) -> str | None:
    """The last line of a log that says something; None where there is none, or no log.

    Args:
        but: lines that begin so are passed over.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 16_384))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    telling = (line for line in reversed(lines) if line.strip() and not (but and but.match(line)))
    return next((" ".join(line.split()) for line in telling), None)

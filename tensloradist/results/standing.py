"""What a run's files say that it is, in one place, so that every command gives the same answer. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tensloradist.records import DamagedRecord, NewerRecord, UnreadableRecord
from tensloradist.results.attempts import attempt_files
from tensloradist.results.checkpoints import newer_checkpoint
from tensloradist.results.claims import highest_claim, owner_of
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_published
from tensloradist.results.schema import Result


@dataclass(frozen=True)
class Standing:
    """A run by its files.

    `newer`: a newer version has made one of its records, so this one leaves the run alone. `unreadable`: the file
    system does not let its result or claim be read. `broken`: its result or its claim is damaged. `open`: it has no
    result; whether somebody is at work on it, its claim tells.

    Attributes:
        result: of a run that is finished or diverged.
        problems: everything that is wrong with its files, each by its path, the most important first. An attempt's
            damaged records do not keep a run from going on.
    """

    state: Literal["finished", "diverged", "newer", "unreadable", "broken", "open"]
    result: Result | None = None
    problems: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether it has a valid result."""
        return self.result is not None

    @property
    def is_left_alone(self) -> bool:
        """Whether no worker of this version may train it, although it has no valid result."""
        return self.state in ("newer", "unreadable")


def standing(run: RunFolder) -> Standing:
    """A run's standing. Its attempts' records are looked at only while it has no result."""
    try:
        return _standing(run)
    except OSError as error:  # a folder that may not be entered, for one
        text = f"{error.filename or run.path}: cannot be read ({error.strerror or error})"
        return Standing("unreadable", problems=(text,))


def _standing(run: RunFolder) -> Standing:
    try:
        result = read_published(run)
    except UnreadableRecord as error:
        return Standing(_kind(error), problems=(str(error),))
    if result is not None:
        return Standing(result.state, result)
    problems: list[UnreadableRecord] = []
    number = highest_claim(run)
    if number:
        try:
            owner_of(run, number)
        except UnreadableRecord as error:
            problems.append(error)
    state = _kind(problems[0]) if problems else "open"
    for attempt in run.attempt_numbers():
        problems += attempt_files(run, attempt).unreadable
    newer = next((error for error in problems if isinstance(error, NewerRecord)), None) or newer_checkpoint(run)
    if newer is not None:
        return Standing("newer", problems=(str(newer),))
    return Standing(state, problems=tuple(map(str, problems)))


def _kind(error: UnreadableRecord) -> Literal["newer", "unreadable", "broken"]:
    if isinstance(error, NewerRecord):
        return "newer"
    return "broken" if isinstance(error, DamagedRecord) else "unreadable"

"""The state of a run by its files, determined in one place, so that all commands agree. Imports no torch."""

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
    """The state of a run by its files.

    Attributes:
        state: 'newer': a newer version wrote one of its records, so this version leaves the run alone. 'unreadable':
            its result or claim cannot be read. 'broken': its result or claim is damaged. 'open': it has no result; its
            claim shows whether a worker trains it.
        result: of a run that is finished or diverged.
        problems: everything that is wrong with its files, each with its path, the most important first. Damaged records
            of an attempt do not stop a run from being trained.
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
    """The state of a run by its files. The records of its attempts are read only while it has no result."""
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

"""The seconds that a run's attempts took, and those wasted on work that no later attempt resumes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from launch.records.policy import RULES
from tensloradist.records import UnreadableRecord
from tensloradist.results.attempts import AttemptFiles, attempt_files
from tensloradist.results.claims import beat_count, beat_seconds
from tensloradist.results.layout import RunFolder
from tensloradist.results.metrics import last_progress
from tensloradist.results.publish import read_result


@dataclass
class Spending:
    """Wall-clock seconds of all attempts, and those wasted, by the cause that ended the attempt.

    Attributes:
        unreadable: attempt records that cannot be read, each with its path.
        duplicates: attempts that finished after another one had published its result.
        duplicates_differ: duplicates whose metrics differ from the published ones.
    """

    seconds: float = 0.0
    wasted_by_cause: dict[str, float] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    duplicates: int = 0
    duplicates_differ: int = 0

    @property
    def wasted_seconds(self) -> float:
        return sum(self.wasted_by_cause.values())


def spending(folder: RunFolder) -> Spending:
    """The cost of a run's attempts so far. Attempts whose record cannot be read are not counted."""
    numbers = folder.attempt_numbers()
    files = [attempt_files(folder, number) for number in numbers]
    spent = Spending()
    for place, (number, attempt) in enumerate(zip(numbers, files, strict=True)):
        record, end, failure = attempt.record, attempt.end, attempt.failure
        spent.unreadable += map(str, attempt.unreadable)
        if record is None:
            continue
        # Both times are from one host's clock. A killed attempt has no end, but its heartbeats were counted.
        seconds = max(0.0, end.ended - record.started) if end else _seconds_beaten(folder, number)
        spent.seconds += seconds
        if end is not None and end.state == "duplicate":
            spent.duplicates += 1
            spent.duplicates_differ += not _same_metrics(folder, number)
        later = files[place + 1 :]
        if (end is None or end.state == "failed") and (later or failure is not None):
            cause = failure.cause if failure else "killed"
            lost = seconds * (1 - _used_share(folder, number, attempt, later))
            spent.wasted_by_cause[cause] = spent.wasted_by_cause.get(cause, 0.0) + lost
    return spent


def _used_share(folder: RunFolder, number: int, attempt: AttemptFiles, later: Sequence[AttemptFiles]) -> float:
    """The share of an attempt's updates that its checkpoints keep for a later attempt, or for the next launch."""
    begun = attempt.record.resumed_from.step if attempt.record and attempt.record.resumed_from else 0
    begins = [files.record.resumed_from for files in later if files.record and files.record.resumed_from]
    handed_on = max((begin.step for begin in begins if begin.attempt == number), default=begun)
    if not later and attempt.failure is not None and RULES[attempt.failure.cause].goes_on:
        handed_on = attempt.failure.kept_step or 0
    kept = max(0, handed_on - begun)
    ended = attempt.end.steps if attempt.end and attempt.end.steps else last_progress(folder.attempt(number))[0]
    done = max((ended or 0) - begun, kept)  # the metrics of a killed attempt may end before its last checkpoint
    return kept / done if done > 0 else 0.0


def _seconds_beaten(folder: RunFolder, number: int) -> float:
    count = beat_count(folder, number)
    try:
        return max(0, count - 1) * beat_seconds(folder, number) if count is not None else 0.0
    except UnreadableRecord:
        return 0.0


def _same_metrics(folder: RunFolder, number: int) -> bool:
    try:
        return read_result(folder.attempt(number) / "result.json").metrics == read_result(folder.result).metrics
    except UnreadableRecord:
        return False

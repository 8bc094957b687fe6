"""Jobs that ended before a worker could write its status: the scheduler's reason, and the end of the job's log."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.scheduler import UNENDED, Job, base_id
from tensloradist.wording import counted

WELL = ("COMPLETED", "PREEMPTED", *UNENDED)


@dataclass(frozen=True)
class EarlyEnd:
    """One such job or array element.

    Attributes:
        end: how it ended, such as 'exit code 127'; None: not known.
        line: the last line of its standard error that says why; None if there is none.
        log: the file for its standard error, which may be absent.
    """

    key: str
    state: str
    end: str | None
    line: str | None
    log: Path


def early_ends(
    gone: Iterable[tuple[Path, str]],
    ended: Mapping[str, Job],
    last_words: Callable[[Path, str], tuple[str | None, Path]],
) -> list[EarlyEnd]:
    """Those jobs that ended without a status of a worker.

    Args:
        gone: (launch folder, key) of the sweep's jobs that have ended.
        ended: accounting's records of them, as far as there are any.
        last_words: `Scheduler.last_words`.
    """
    found = []
    for folder, key in gone:
        if any(folder.glob(f"worker-{key}.*.json")):
            continue
        line, log = last_words(folder, key)
        record = ended.get(key)
        if record is None and line is None:  # cancelled before it began, or nothing is known of it
            continue
        if record is not None and (record.state in WELL or (record.state.startswith("CANCELLED") and line is None)):
            continue
        found.append(EarlyEnd(key, record.state if record else "ended", record.end if record else None, line, log))
    return found


def described(ends: Iterable[EarlyEnd]) -> list[str]:
    """A line for each kind of early end, with the number of jobs."""
    kinds: dict[tuple[str, str | None, str | None], list[EarlyEnd]] = defaultdict(list)
    for end in ends:
        kinds[end.state, end.end, _without_ids(end)].append(end)
    return [_kind(alike) for alike in kinds.values()]


def _without_ids(end: EarlyEnd) -> str | None:
    """The line without what differs between jobs that failed alike: their ids, and times."""
    if end.line is None:
        return None
    base = base_id(end.key)
    words = (word for word in end.line.split() if base not in word and "_log." not in word)
    return " ".join(word for word in words if not (word[:4].isdigit() and "T" in word))


def _kind(alike: list[EarlyEnd]) -> str:
    first = alike[0]
    what = f"{counted(len(alike), 'job')} ended before a worker could begin"
    how = f"{first.state}, {first.end}" if first.end else first.state
    if first.line is None:
        return (
            f"{what} ({how}), without output: {first.log} is {'empty' if first.log.exists() else 'absent'}; is the "
            "results folder full, read-only, or not mounted on the nodes?"
        )
    return f"{what} ({how}): {first.line}; see {first.log}"

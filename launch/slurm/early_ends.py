"""Jobs that ended before a worker could write a word: what Slurm and the job's standard error say of why."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.records.worker_status import last_line
from launch.slurm.client import Job
from tensloradist.wording import counted

WELL = ("COMPLETED", "PREEMPTED", "PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED")

# What Slurm adds after the line that says why: that a task has ended, and what it does about it.
ECHO = re.compile(
    r"srun: (error: .*(Exited with|Killed|Terminated)|launch/|Job step aborted|Terminating|Force)|.*\*\*\* (JOB|STEP)"
)


@dataclass(frozen=True)
class EarlyEnd:
    """One such job or array element.

    `code`: Slurm's exit code, such as '127:0' (exit code, signal); None where it is not known. `line`: the last of its
    standard error; None where it left none. `log`: where that is, or was to be.
    """

    key: str
    state: str
    code: str | None
    line: str | None
    log: Path


def early_ends(gone: Iterable[tuple[Path, str]], ended: Mapping[str, Job]) -> list[EarlyEnd]:
    """Those jobs that ended with no word of a worker.

    Args:
        gone: (launch folder, key) of the sweep's jobs that have ended.
        ended: sacct's records of them, as far as there are any.
    """
    found = []
    for folder, key in gone:
        if any(folder.glob(f"worker-{key}.*.json")):
            continue
        logs = sorted(folder.glob(f"submitit-*/{key}_*_log.err"))
        line = next((line for log in logs if (line := last_line(log, ECHO) or last_line(log))), None)
        record = ended.get(key)
        if record is None and line is None:  # cancelled before it began, or nothing is known of it
            continue
        if record is not None and (record.state in WELL or (record.state.startswith("CANCELLED") and line is None)):
            continue
        log = logs[0] if logs else folder / "submitit-0" / f"{key}_0_log.err"
        found.append(EarlyEnd(key, record.state if record else "ended", record.code if record else None, line, log))
    return found


def described(ends: Iterable[EarlyEnd]) -> list[str]:
    """A line for each kind of early end, however many jobs it met."""
    kinds: dict[tuple[str, str | None, str | None], list[EarlyEnd]] = defaultdict(list)
    for end in ends:
        kinds[end.state, end.code, _without_ids(end)].append(end)
    return [_kind(alike) for alike in kinds.values()]


def _without_ids(end: EarlyEnd) -> str | None:
    """The line without what differs between jobs that failed alike: their ids, and the times of Slurm's messages."""
    if end.line is None:
        return None
    base = end.key.split("_")[0]
    words = (word for word in end.line.split() if base not in word and "_log." not in word)
    return " ".join(word for word in words if not (word[:4].isdigit() and "T" in word))


def _kind(alike: list[EarlyEnd]) -> str:
    first = alike[0]
    what = f"{counted(len(alike), 'job')} ended before a worker could begin"
    slurm = f"{first.state}, {_code(first.code)}" if first.code else first.state
    if first.line is None:
        return (
            f"{what} ({slurm}), without a word: {first.log} is {'empty' if first.log.exists() else 'absent'}; is the "
            "results folder full, read-only, or not mounted on the nodes?"
        )
    return f"{what} ({slurm}): {first.line}; see {first.log}"


def _code(code: str) -> str:
    """'exit code 127' or 'signal 9' of Slurm's '127:0' and '0:9'."""
    exit_code, _, signal = code.partition(":")
    if signal == "53":
        return "the node could not open the job's files"
    return f"signal {signal}" if signal not in ("", "0") else f"exit code {exit_code}"

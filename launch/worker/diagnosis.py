"""Why an attempt ended whose process left no record: inferred from its exit code, or from the scheduler's answer."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import NamedTuple

from launch.scheduler import Scheduler
from launch.worker.children import Crash
from tensloradist.results.claims import Owner
from tensloradist.results.layout import RunFolder
from tensloradist.results.ranks import failed_rank, silent
from tensloradist.results.schema import Cause, ManifestRun

CAUSES_BY_STATE: dict[str, Cause] = {
    "NODE_FAIL": "node_failure",
    "PREEMPTED": "preempted",
    "TIMEOUT": "time_limit",
    "OUT_OF_MEMORY": "out_of_host_memory",
    "CANCELLED": "cancelled",
}
LOG_END_BYTES = 65_536
_WATCHDOG = re.compile(
    rb"ProcessGroupNCCL[^\n]*(watchdog|Watchdog|timed? ?out)|Watchdog caught collective operation timeout"
)


class Diagnosis(NamedTuple):
    """The fields of a `Failure` that are known of an attempt whose process ended."""

    cause: Cause
    message: str
    traceback: str | None = None
    evaluation_batch: int | None = None


def diagnose_lost_owner(owner: Owner, scheduler: Scheduler | None) -> Diagnosis:
    """Infer why an owner vanished without a record. The scheduler is asked if the owner's job is of its cluster."""
    where = f"{owner.host}, process {owner.pid}" + (f", job {owner.job}" if owner.job else "")
    cause: Cause = "killed"
    if scheduler is not None and owner.job and owner.cluster is not None and owner.cluster == scheduler.cluster():
        ended = scheduler.end_of(owner.job, owner.restart)
        if ended is not None:
            cause = "out_of_host_memory" if ended.over_memory else CAUSES_BY_STATE.get(ended.state, "killed")
            where += f"; {scheduler.name} says {ended.state}" + (", beyond its memory" if ended.over_memory else "")
    return Diagnosis(cause, f"its process vanished without a record ({where})")


def diagnose_crash(run: ManifestRun, folder: RunFolder, number: int, crash: Crash, for_memory: bool) -> Diagnosis:
    """Infer why an attempt ended with one of its processes: from that process's record, or its exit code.

    Args:
        for_memory: whether the kernel has killed a process for memory since the attempt began.
    """
    processes, code = run.spec.compute.processes, crash.code
    failed = failed_rank(folder.attempt(number)) if crash.rank else None
    if failed is not None:
        message = f"process {failed.rank} of {processes} ({failed.host}): {failed.message}; see {crash.log}"
        return Diagnosis(failed.cause, message, failed.traceback, failed.evaluation_batch)
    who = f"process {crash.rank} of {processes}" if processes > 1 else "the process"
    how = f"{who} ended by signal {-code}" if code < 0 else f"{who} exited with {code}"
    if processes > 1 and -code == signal.SIGABRT and was_nccl_watchdog(Path(crash.log)):
        quiet = ", ".join(map(str, silent(folder.attempt(number), processes)))
        hung = f"; process {quiet} left no record" if quiet else ""
        timed_out = f"{who} was ended by NCCL's watchdog, after a collective timed out{hung}; see {crash.log}"
        return Diagnosis("communication", timed_out)
    return Diagnosis(cause_of_end(code, for_memory), f"{how}; see {crash.log}")


def was_nccl_watchdog(log: Path) -> bool:
    """Whether NCCL's watchdog aborted a process, which only the end of its log distinguishes from other aborts."""
    if not log.is_file():
        return False
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_END_BYTES))
        return _WATCHDOG.search(stream.read()) is not None


def cause_of_end(code: int, for_memory: bool) -> Cause:
    """The cause of a failure of which only the exit code is known; `code` is negative for a signal."""
    if -code == signal.SIGKILL and for_memory:
        return "out_of_host_memory"
    if -code in (signal.SIGKILL, signal.SIGTERM):
        return "killed"
    return "interrupted" if code == 130 else "bug"

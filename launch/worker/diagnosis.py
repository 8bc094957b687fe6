"""What the end of an attempt is put down to, where its process left no record: its exit code, or Slurm's word."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import NamedTuple

from launch.slurm import client
from launch.worker.children import Crash
from tensloradist.results.claims import Owner
from tensloradist.results.layout import RunFolder
from tensloradist.results.ranks import culprit, silent
from tensloradist.results.schema import Cause, ManifestRun

CAUSES_BY_SLURM: dict[str, Cause] = {
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


class Blame(NamedTuple):
    """What of a `Failure` is known of an attempt that a process's end has ended."""

    cause: Cause
    message: str
    traceback: str | None = None
    evaluation_batch: int | None = None


def vanished(owner: Owner) -> Blame:
    """Cause and message for an owner that ended without a word. This cluster's Slurm is asked about its own jobs."""
    where = f"{owner.host}, process {owner.pid}" + (f", job {owner.job}" if owner.job else "")
    ours = owner.cluster is not None and owner.cluster == client.cluster()
    ended = client.end_of(owner.job, owner.restart) if owner.job and ours else None
    cause: Cause = "killed"
    if ended is not None:
        cause = "out_of_host_memory" if ended.over_memory else CAUSES_BY_SLURM.get(ended.state, "killed")
        where += f"; Slurm says {ended.state}" + (", beyond its memory" if ended.over_memory else "")
    return Blame(cause, f"its process vanished without a word ({where})")


def blamed(run: ManifestRun, folder: RunFolder, number: int, crash: Crash, for_memory: bool) -> Blame:
    """What ended an attempt with one of its processes: that process's own words, or its exit code.

    Args:
        for_memory: whether the kernel has killed for memory since the attempt began.
    """
    processes, code = run.spec.compute.processes, crash.code
    other = culprit(folder.attempt(number)) if crash.rank else None
    if other is not None:
        said = f"process {other.rank} of {processes} ({other.host}): {other.message}; see {crash.log}"
        return Blame(other.cause, said, other.traceback, other.evaluation_batch)
    who = f"process {crash.rank} of {processes}" if processes > 1 else "the process"
    how = f"{who} ended by signal {-code}" if code < 0 else f"{who} exited with {code}"
    if processes > 1 and -code == signal.SIGABRT and was_nccl_watchdog(Path(crash.log)):
        quiet = ", ".join(map(str, silent(folder.attempt(number), processes)))
        hung = f"; no word came from process {quiet}" if quiet else ""
        timed_out = f"{who} was ended by NCCL's watchdog, after a collective timed out{hung}; see {crash.log}"
        return Blame("communication", timed_out)
    return Blame(cause_of_end(code, for_memory), f"{how}; see {crash.log}")


def was_nccl_watchdog(log: Path) -> bool:
    """Whether the end of a process's log says that NCCL's watchdog aborted it: all that tells it from other aborts."""
    if not log.is_file():
        return False
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_END_BYTES))
        return _WATCHDOG.search(stream.read()) is not None


def cause_of_end(code: int, for_memory: bool) -> Cause:
    """The class of a failure that only the exit code tells of: negative for a signal."""
    if -code == signal.SIGKILL and for_memory:
        return "out_of_host_memory"
    if -code in (signal.SIGKILL, signal.SIGTERM):
        return "killed"
    return "interrupted" if code == 130 else "bug"

"""The seam between `launch` and a cluster's scheduler: what is asked of a scheduler, and the words of its answers.

`launch/slurm/` implements `Scheduler` for Slurm, and `launch/site.py` chooses it. Nothing else depends on a scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tensloradist.errors import UserError
from tensloradist.results.claims import Owner
from tensloradist.results.jobs import JobRef

# The states of jobs are Slurm's words; another scheduler translates its own. In these, a job is known but not at work:
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
# In these, a record of accounting lags behind: the job has not ended.
UNENDED = ("PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED")
# In these, a job does not run again by itself.
OVER = (
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "COMPLETING",
    "DEADLINE",
    "ENDED",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
)


@dataclass(frozen=True)
class Job:
    """One job, or one element of an array.

    Attributes:
        key: as in `JobRef`.
        restart: how often it was put back into the queue.
        end: how an ended job ended, for people: 'exit code 127', 'signal 9'; None: not known.
    """

    key: str
    state: str
    restart: int = 0
    end: str | None = None


@dataclass(frozen=True)
class Ended:
    """How one restart of a job ended: its state, and whether it exceeded its memory."""

    state: str
    over_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one restart of a job used, in seconds and bytes; None: not recorded."""

    key: str
    state: str
    elapsed_seconds: float
    cpu_seconds: float | None = None
    allocated_cpus: int | None = None
    peak_memory_bytes: float | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the site allows; None: no limit, or not known."""

    max_array_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A job, or an array of alike jobs, to be queued.

    Attributes:
        name: the sweep's, shown in the queue.
        run: what each task calls with the path of the submission; importable by its module and name.
        submission: the file that says what the tasks work on, and what they were given.
        tasks: elements of the array; one task is a job without an array.
        parallel: how many of them may run at the same time.
        logs: a new folder in the launch's folder for the scheduler's own files and the jobs' output.
        code: a copy of the code to run instead of the installed code.
    """

    name: str
    run: Callable[[str], None]
    submission: Path
    tasks: int
    parallel: int
    logs: Path
    code: Path | None = None


class JobRefused(UserError):
    """The scheduler does not accept a job; the message is its reason."""


class Scheduler(Protocol):
    """A cluster's scheduler.

    A scheduler that is absent or silent answers None; no question raises an error for that. What it says never decides
    whether a run is done: the run's result does.
    """

    name: str
    """For messages: 'Slurm'."""

    def cluster(self) -> str | None:
        """The cluster that questions from this machine are about: job keys mean nothing on another."""

    def current_job(self) -> JobRef | None:
        """The job that this process runs in; None outside of a job."""

    def seconds_left(self) -> float | None:
        """Seconds until the time limit of this process's job; None outside of a job, or if it is not known."""

    def submit(self, request: JobRequest) -> str:
        """Queue a job or an array; returns its id. An array's elements have the keys ID_0, ID_1, …

        The names of the workers' files begin with the key and the restart of their job: `worker-KEY.RESTART.0.json`.

        Raises:
            JobRefused: it is not accepted, so nothing was queued.
        """

    def alive(self) -> Mapping[str, Job] | None:
        """All jobs in the queue, by key: those that wait, run or are about to end, of all users."""

    def ended(self, keys: Iterable[str]) -> Mapping[str, Job] | None:
        """The last record of accounting on each job or element that it knows, and on the elements of arrays."""

    def end_of(self, key: str, restart: int) -> Ended | None:
        """How a job ended at a restart count; None also where that is not on record."""

    def usage(self, keys: Iterable[str]) -> list[Usage] | None:
        """What jobs that have begun used, each restart by itself."""

    def cancel(self, keys: Iterable[str]) -> str | None:
        """Cancel jobs, arrays or elements; None if the scheduler accepts it, else what it says."""

    def limits(self) -> Limits | None:
        """The limits of the site."""

    def adopt(self, name: str, root: Path) -> list[tuple[Path, str]]:
        """Put on record the jobs of a sweep whose launch was killed between submitting them and recording that.

        Returns:
            (launch folder, key) of the jobs that cannot be recorded, since the folder is full or read-only.
        """

    def last_words(self, folder: Path, key: str) -> tuple[str | None, Path]:
        """The last line of a job's standard error that says why it ended, if any, and the path of that file.

        Args:
            folder: the launch's.
        """


def base_id(key: str) -> str:
    """The id of the job or array that a key is of: '1234' of '1234_5'."""
    return key.split("_")[0]


def living(keys: Iterable[str], alive: Callable[[], Mapping[str, Job] | None]) -> dict[str, Job] | None:
    """The named jobs that are in the queue, and all elements of arrays of which one is named; None without an answer.

    Args:
        alive: `Scheduler.alive`; not called where no job is named.
    """
    wanted = {base_id(key) for key in keys}
    if not wanted:
        return {}
    queue = alive()
    return None if queue is None else {key: job for key, job in queue.items() if base_id(key) in wanted}


def at_work(owner: Owner, queue: Mapping[str, Job], cluster: str | None) -> bool | None:
    """Whether the owner's job runs at its restart count, by a cluster's whole queue; None for another cluster's job."""
    if owner.job is None or owner.cluster != cluster:
        return None
    found = queue.get(owner.job)
    return found is not None and found.restart <= owner.restart and found.state not in WAITING

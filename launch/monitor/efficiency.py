"""Efficiency: what a sweep's jobs asked for and what they used, and what that suggests for the profile."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from launch.monitor.spending import spending
from launch.planning.sharing import Sharing, sharing
from launch.records.job_arrays import JobArray, launches
from launch.scheduler import Scheduler, Usage, base_id
from tensloradist.errors import UserError
from tensloradist.results.layout import RunFolder
from tensloradist.results.manifests import latest_manifest
from tensloradist.results.standing import standing

MARGIN = 1.3  # of what was used, when less is suggested
LITTLE = 0.5  # of what was asked for: below, less is suggested


@dataclass
class Efficiency:
    """What one option set's jobs asked for and used. Times in seconds, memory in bytes; None: not recorded."""

    profile: str
    options: str
    tasks: int
    limit_seconds: float
    longest_seconds: float | None
    elapsed_seconds: float
    cpu_share: float | None
    memory_asked: float | None
    memory_used: float | None
    gpus: int
    suggestions: list[str] = field(default_factory=list)


@dataclass
class Spent:
    """Where the finished runs' seconds went.

    Attributes:
        worker_seconds: the time that workers were given.
        kept_seconds: work of unfinished runs that their checkpoints keep.
        unreadable: runs that are left out, since their results cannot be read.
        sharing: what the finished runs suggest for sharing GPUs.
    """

    runs: int
    start_seconds: float
    train_seconds: float
    evaluate_seconds: float
    worker_seconds: float
    device_bytes: int | None
    kept_seconds: float = 0.0
    unreadable: int = 0
    sharing: Sharing | None = None

    @property
    def busy_share(self) -> float | None:
        """The share of the workers' time that training and evaluation took, checkpointed work included."""
        busy = self.train_seconds + self.evaluate_seconds + self.kept_seconds
        return min(1.0, busy / self.worker_seconds) if self.worker_seconds else None


def account(name: str, root: Path, scheduler: Scheduler) -> tuple[list[Efficiency], Spent]:
    """What a sweep's jobs asked for and used.

    Raises:
        UserError: it was never launched on a cluster, or the scheduler's accounting does not answer.
    """
    submitted = [launch for _, launch in launches(name, root)]
    cluster = scheduler.cluster() if submitted else None
    ours = [launch for launch in submitted if launch.is_of(cluster)]
    arrays = [(launch.profile, array) for launch in ours for array in launch.arrays]
    if submitted and not ours:
        clusters = ", ".join(sorted({str(launch.cluster) for launch in submitted}))
        raise UserError(f"{name}: its jobs are of another cluster ({clusters}); ask for their efficiency there")
    if not arrays:
        raise UserError(f"{name}: never launched with --profile, so there are no jobs to account for")
    used = scheduler.usage(array.job_id for _, array in arrays)
    if used is None:
        raise UserError(f"{scheduler.name}'s accounting does not answer, so usage is not known; try again later")
    groups: dict[tuple[str, str], list[JobArray]] = {}
    for profile, array in arrays:
        groups.setdefault((profile, array.options), []).append(array)
    jobs = {key: [use for use in used for array in group if _is_of(use, array)] for key, group in groups.items()}
    folders = [
        RunFolder(root, run_id) for run_id in dict.fromkeys(run.run_id for run in latest_manifest(name, root).runs)
    ]
    found = [(folder, standing(folder)) for folder in folders if folder.path.is_dir()]
    results = [each.result for _, each in found if each.result is not None]
    unfinished = [spending(folder) for folder, each in found if each.state == "open"]
    worker_seconds = sum(
        use.elapsed_seconds * array.workers_per_task for _, array in arrays for use in used if _is_of(use, array)
    )
    spent = Spent(
        len(results),
        sum(result.times.load_seconds for result in results),
        sum(result.times.train_seconds for result in results),
        sum(result.times.evaluate_seconds for result in results),
        worker_seconds,
        max((result.peak_memory.device_bytes or 0 for result in results), default=0) or None,
        sum(spent.seconds - spent.wasted_seconds for spent in unfinished),
        sum(each.result is None and each.state != "open" for _, each in found),
        sharing(results),
    )
    return [_of_set(*key, group, jobs[key], spent) for key, group in groups.items()], spent


def _is_of(use: Usage, array: JobArray) -> bool:
    return base_id(use.key) == array.job_id


def _of_set(profile: str, options: str, arrays: list[JobArray], jobs: list[Usage], spent: Spent) -> Efficiency:
    asked = arrays[-1].asked
    limit = 60.0 * arrays[-1].time_limit_minutes
    elapsed = sum(job.elapsed_seconds for job in jobs)
    cpu = [job.cpu_seconds for job in jobs if job.cpu_seconds is not None]
    capacity = sum(job.elapsed_seconds * (job.allocated_cpus or 1) for job in jobs if job.cpu_seconds is not None)
    peaks = [job.peak_memory_bytes for job in jobs if job.peak_memory_bytes]
    found = Efficiency(
        profile,
        options,
        sum(array.tasks for array in arrays),
        limit,
        max((job.elapsed_seconds for job in jobs), default=None),
        elapsed,
        sum(cpu) / capacity if capacity else None,
        asked.memory_gb * 2**30 if asked.memory_gb else None,
        max(peaks, default=None),
        asked.gpus_per_node,
    )
    found.suggestions = _suggestions(found, jobs, spent)
    single = all(array.processes == 1 for array in arrays)
    alone = single and arrays[-1].workers_per_task <= found.gpus
    if spent.sharing is not None and alone:
        found.suggestions.append(str(spent.sharing))
    return found


def _suggestions(found: Efficiency, jobs: list[Usage], spent: Spent) -> list[str]:
    suggestions = []
    if found.memory_asked and found.memory_used and found.memory_used < LITTLE * found.memory_asked:
        less = max(0.5, math.ceil(2 * MARGIN * found.memory_used / 2**30) / 2)
        suggestions.append(
            f"memory_gb: {less:g} would do ({found.memory_used / 2**30:.1f} of {found.memory_asked / 2**30:g} GB used)"
        )
    if found.memory_asked and found.memory_used and found.memory_used > 0.9 * found.memory_asked:
        suggestions.append(f"memory_gb: more than {found.memory_used / 2**30:.1f} is wise: the limit is near")
    ended = [job.elapsed_seconds for job in jobs if job.state == "COMPLETED"]
    if ended and max(ended) < LITTLE * found.limit_seconds:
        minutes = max(2, math.ceil(MARGIN * max(ended) / 60))
        suggestions.append(
            f"time_minutes: {minutes} would do (the longest took {max(ended) / 60:.1f}); short jobs start sooner"
        )
    if any(job.state == "TIMEOUT" for job in jobs):
        suggestions.append("signal_lead_seconds: raise it: jobs reached their time limit without an orderly end")
    if spent.runs and (share := spent.busy_share) is not None and share < LITTLE:
        each = (spent.train_seconds + spent.evaluate_seconds) / spent.runs
        suggestions.append(
            f"runs_per_task: raise it or leave it out: only {100 * share:.0f} % of the workers' time went into runs of "
            f"{each:.0f} s each"
        )
    return suggestions

"""What Slurm says of a sweep's jobs: one squeue a look, and sacct once for each job that squeue has forgotten."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from launch.records.job_arrays import elements, jobs_elsewhere, launches
from launch.slurm import client
from launch.slurm.adoption import adopt
from launch.slurm.client import Job
from launch.slurm.early_ends import described, early_ends

UNENDED = ("PENDING", "RUNNING", "REQUEUED", "RESIZING", "SUSPENDED")  # in a record of sacct that lags behind
OVER = (
    "boot_fail",
    "cancelled",
    "completed",
    "completing",
    "deadline",
    "ended",
    "failed",
    "node_fail",
    "out_of_memory",
    "preempted",
    "timeout",
)
MOST_ASKED = 10  # times for one job's record: an element that was cancelled before it began never has one


@dataclass
class JobsStatus:
    """The sweep's Slurm jobs: counts by state, those that were cancelled before they began, and early ends in words."""

    answers: bool
    counts: dict[str, int] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    early_ends: list[str] = field(default_factory=list)

    @property
    def are_left(self) -> bool:
        """Whether a job waits, runs, or will run again."""
        return any(number for state, number in self.counts.items() if state not in OVER)


class Jobs:
    """A sweep's jobs, and what was learned of them at earlier looks: what sacct said of one that has ended stays true.

    Attributes:
        cluster: the one that Slurm's commands speak of here; None: not known, or there are no jobs to ask about.
        living: the sweep's jobs that squeue knew at the last look; None: no answer.
    """

    def __init__(self, name: str, root: Path) -> None:
        self._name, self._root = name, root
        self.cluster: str | None = None
        self.living: dict[str, Job] | None = None
        self._ended: dict[str, Job] = {}
        self._asked: Counter[str] = Counter()

    def look(self) -> JobsStatus | None:
        """Ask squeue, and sacct about what is new; None where the sweep has never been submitted."""
        unrecorded = adopt(self._name, self._root)
        if not unrecorded and not any(True for _ in launches(self._name, self._root)):
            return None
        if client.available():
            self.cluster = self.cluster or client.cluster()
        submitted = [*elements(self._name, self._root, self.cluster), *unrecorded]
        self.living = client.living(key for _, key in submitted) if self.cluster else None
        if self.living is None:
            return JobsStatus(False)
        counts = Counter(job.state.lower() for job in self.living.values())
        for key in self.living:  # one that was put back into the queue ends once more
            self._ended.pop(key, None)
            self._asked.pop(key, None)
        gone = [(folder, key) for folder, key in submitted if key not in self.living]
        is_known = self._learn([key for _, key in gone])
        # What an earlier launch met is history, once its jobs are gone.
        at_work = {folder for folder, key in submitted if key in self.living}
        recent = at_work | {max((folder for folder, _ in submitted), default=self._root)}
        early, cancelled = early_ends(((folder, key) for folder, key in gone if folder in recent), self._ended), []
        if not is_known:
            return JobsStatus(True, dict(counts), [], described(early))
        unheard = {end.key for end in early}
        for folder, key in gone:
            record = self._ended.get(key)
            # A pending element that was cancelled leaves no record at all, nor has it a worker's file.
            unbegun = record is None and not any(folder.glob(f"worker-{key}.*.json"))
            if (unbegun and key not in unheard) or (record is not None and record.state.startswith("CANCELLED")):
                cancelled.append(key)
            elif record is not None:
                counts[record.state.lower()] += 1
            elif key in unheard:
                counts["ended"] += 1
        if cancelled:
            counts["cancelled"] = len(cancelled)
        return JobsStatus(True, dict(counts), cancelled, described(early))

    def elsewhere(self) -> dict[str, list[str]]:
        """The sweep's jobs on other clusters, which cannot be asked from here."""
        return jobs_elsewhere(self._name, self._root, self.cluster) if self.cluster else {}

    def _learn(self, gone: list[str]) -> bool:
        """Ask sacct about those whose end is not known; whether all that it could say is known now."""
        unknown = [key for key in gone if not self._is_known(key)]
        if not unknown:
            return True
        said = client.ended(unknown)
        if said is None:
            return False
        for key in unknown:
            self._asked[key] += 1
            if key in said:
                self._ended[key] = said[key]
        return True

    def _is_known(self, key: str) -> bool:
        record = self._ended.get(key)
        return (record is not None and record.state not in UNENDED) or self._asked[key] >= MOST_ASKED

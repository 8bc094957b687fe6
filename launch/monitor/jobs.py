"""What the scheduler says of a sweep's jobs: the queue at each look, and once the record of each job that has ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from launch.monitor.early_ends import described, early_ends
from launch.records.job_arrays import elements, jobs_elsewhere, launches
from launch.scheduler import OVER, UNENDED, Job, Scheduler, living

MOST_ASKED = 10  # times for one job's record: an element that was cancelled before it began never has one


@dataclass
class JobsStatus:
    """A sweep's jobs.

    Attributes:
        answers: whether the scheduler answers; if not, nothing else is known.
        counts: jobs by state, in lower case.
        cancelled: the keys of those that were cancelled.
        early_ends: a line for each kind of early end.
    """

    answers: bool
    counts: dict[str, int] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    early_ends: list[str] = field(default_factory=list)

    @property
    def are_left(self) -> bool:
        """Whether a job waits, runs, or will run again."""
        return any(number for state, number in self.counts.items() if state.upper() not in OVER)


class Jobs:
    """A sweep's jobs, and what earlier looks have found: the record of a job that has ended stays true.

    Attributes:
        cluster: the scheduler's; None: not known, or there are no jobs to ask about.
        living: the sweep's jobs in the queue at the last look; None: no answer.
    """

    def __init__(self, name: str, root: Path, scheduler: Scheduler) -> None:
        self._name, self._root, self.scheduler = name, root, scheduler
        self.cluster: str | None = None
        self.living: dict[str, Job] | None = None
        self._ended: dict[str, Job] = {}
        self._asked: Counter[str] = Counter()

    def look(self) -> JobsStatus | None:
        """Ask for the queue, and for the records of jobs that have left it; None if the sweep was never submitted."""
        unrecorded = self.scheduler.adopt(self._name, self._root)
        if not unrecorded and not any(True for _ in launches(self._name, self._root)):
            return None
        self.cluster = self.cluster or self.scheduler.cluster()
        submitted = [*elements(self._name, self._root, self.cluster), *unrecorded]
        self.living = living([key for _, key in submitted], self.scheduler.alive) if self.cluster else None
        if self.living is None:
            return JobsStatus(False)
        counts = Counter(job.state.lower() for job in self.living.values())
        for key in self.living:  # one that was put back into the queue ends once more
            self._ended.pop(key, None)
            self._asked.pop(key, None)
        gone = [(folder, key) for folder, key in submitted if key not in self.living]
        is_known = self._learn([key for _, key in gone])
        # Early ends of an earlier launch are of no interest once its jobs are gone.
        at_work = {folder for folder, key in submitted if key in self.living}
        recent = at_work | {max((folder for folder, _ in submitted), default=self._root)}
        of_recent = ((folder, key) for folder, key in gone if folder in recent)
        early, cancelled = early_ends(of_recent, self._ended, self.scheduler.last_words), []
        if not is_known:
            return JobsStatus(True, dict(counts), [], described(early))
        unheard = {end.key for end in early}
        for folder, key in gone:
            record = self._ended.get(key)
            # A pending element that was cancelled leaves neither a record nor a worker's file.
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
        """The sweep's jobs on other clusters, whose schedulers cannot be asked from here."""
        return jobs_elsewhere(self._name, self._root, self.cluster) if self.cluster else {}

    def _learn(self, gone: list[str]) -> bool:
        """Ask for the records of jobs whose end is not known; returns whether accounting answers."""
        unknown = [key for key in gone if not self._is_known(key)]
        if not unknown:
            return True
        records = self.scheduler.ended(unknown)
        if records is None:
            return False
        for key in unknown:
            self._asked[key] += 1
            if key in records:
                self._ended[key] = records[key]
        return True

    def _is_known(self, key: str) -> bool:
        record = self._ended.get(key)
        return (record is not None and record.state not in UNENDED) or self._asked[key] >= MOST_ASKED

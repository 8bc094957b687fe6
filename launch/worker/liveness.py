"""Whether the jobs of other owners may still run, by a queue that is asked for seldom and believed for a while.

Each worker of a launch asks by itself, so the more workers there are, the longer each believes an answer: together
they ask about once in `LAUNCH_SECONDS`. A scheduler is believed only about the jobs of its own cluster.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from launch.scheduler import Job, Scheduler, at_work
from tensloradist.results.claims import Owner

ASK_SECONDS = 15.0  # at least, between two questions of one worker
LAUNCH_SECONDS = 2.0  # on average, between the questions of all workers of a launch


class JobsAlive:
    """What a worker knows of other owners' jobs.

    An answer lists the whole queue, so it is believed about every job. But it does not show what began after it, so an
    answer from before a job was first asked about does not count as proof that the job is gone or waits. An answer
    without this worker's own job is ignored.

    Args:
        workers: of the whole launch, at the same time.
        clock: monotonic seconds.
    """

    def __init__(self, scheduler: Scheduler, workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._scheduler, self._job, self._clock = scheduler, scheduler.current_job(), clock
        self._every = max(ASK_SECONDS, LAUNCH_SECONDS * workers)
        self._next = clock() + random.uniform(0, self._every - ASK_SECONDS)  # a large launch's jobs begin together
        self._asked = 0.0
        self._queue: Mapping[str, Job] | None = None
        self._first: dict[tuple[str, int], float] = {}

    def __call__(self, owner: Owner) -> bool | None:
        """Whether the owner's job may still run; None if that is not known (yet)."""
        if owner.job is None or self._job is None or owner.cluster != self._job.cluster:
            return None
        if owner.job == self._job.key:
            return owner.restart >= self._job.restart  # an earlier restart of this worker's own job has ended
        first = self._first.setdefault((owner.job, owner.restart), self._clock())
        self._ask_if_due()
        if self._queue is None:
            return None
        alive = at_work(owner, self._queue, self._job.cluster)
        return alive if alive or self._asked >= first else None

    def _ask_if_due(self) -> None:
        now = self._clock()
        if now < self._next or self._job is None:
            return
        queue = self._scheduler.alive()
        self._asked, self._next = now, now + self._every * random.uniform(0.8, 1.2)
        self._queue = queue if queue is not None and self._job.key in queue else None

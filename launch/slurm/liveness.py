"""Whether the Slurm jobs of claims may still run, by a squeue that is asked seldom and believed for a while.

Every worker of a launch asks for itself, so the more workers there are, the longer each believes an answer: together
they ask about once in `LAUNCH_SECONDS`. squeue is believed about its own cluster's jobs alone.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from launch.slurm import client
from tensloradist.results.claims import Owner

ASK_SECONDS = 15.0  # between questions to squeue by one worker, at least
LAUNCH_SECONDS = 2.0  # between the questions of all workers of a launch, on average
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")  # the job is known, but not at work


def at_work(owner: Owner, jobs: Mapping[str, client.Job], cluster: str | None) -> bool | None:
    """Whether the owner's job runs at its restart count, by all jobs of a cluster; None for another cluster's job."""
    if owner.job is None or owner.cluster != cluster:
        return None
    found = jobs.get(owner.job)
    return found is not None and found.restart <= owner.restart and found.state not in WAITING


class JobsAlive:
    """What a worker knows of other owners' jobs.

    An answer of squeue is whole, so it is believed about every job. But it says nothing of what began after it: that a
    job is gone, or waits, counts only by an answer from after the job was first asked about. An answer without this
    worker's own job is none.

    Args:
        workers: of the whole launch, at the same time.
        me: this worker; its job is at work, whatever squeue says.
        clock: monotonic seconds.
    """

    def __init__(self, workers: int = 1, me: Owner | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._me, self._clock = me or Owner.me(), clock
        self._every = max(ASK_SECONDS, LAUNCH_SECONDS * workers)
        self._next = clock() + random.uniform(0, self._every - ASK_SECONDS)  # a large launch's jobs begin together
        self._asked = 0.0
        self._jobs: dict[str, client.Job] | None = None
        self._first: dict[tuple[str, int], float] = {}

    def __call__(self, owner: Owner) -> bool | None:
        """Whether the owner's job may still run; None where that is not known (yet)."""
        if owner.job is None or owner.cluster != self._me.cluster:
            return None
        if owner.job == self._me.job:
            return owner.restart >= self._me.restart  # Slurm began this job anew: what it was before has ended
        first = self._first.setdefault((owner.job, owner.restart), self._clock())
        self._ask_if_due()
        if self._jobs is None:
            return None
        alive = at_work(owner, self._jobs, self._me.cluster)
        return alive if alive or self._asked >= first else None

    def _ask_if_due(self) -> None:
        now = self._clock()
        if now < self._next:
            return
        jobs = client.queue()
        self._asked, self._next = now, now + self._every * random.uniform(0.8, 1.2)
        whole = jobs is not None and (self._me.job is None or self._me.job in jobs)
        self._jobs = jobs if whole else None

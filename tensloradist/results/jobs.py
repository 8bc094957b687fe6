"""The scheduler's job that a process runs in, as claims and attempts record it. No scheduler is known here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class JobRef:
    """A job, or one element of an array of jobs.

    Attributes:
        key: its name in the scheduler's commands: '1234', or '1234_5' for an element of an array.
        restart: how often the scheduler had put it back into the queue.
        cluster: where the key means something; None: not known.
        id: the job's own id, which an element of an array has besides its key.
        array_id, array_index: the array's id, and the element's place in it; None outside of an array.
        partition, nodes: where it runs, as the scheduler writes it.
        limits: cpus, memory (MB), gpus and minutes that it was given, as far as they are known.
    """

    key: str
    restart: int = 0
    cluster: str | None = None
    id: str
    array_id: str | None = None
    array_index: str | None = None
    partition: str | None = None
    nodes: str | None = None
    limits: dict[str, str] = field(default_factory=dict)


_finders: list[Callable[[], JobRef | None]] = []


def find_job_with(finder: Callable[[], JobRef | None]) -> None:
    """Set how `current_job` finds the job of this process. `launch` registers the site's scheduler."""
    _finders[:] = [finder]


def current_job() -> JobRef | None:
    """The job that this process runs in; None outside of a job, or where no scheduler is registered."""
    return _finders[0]() if _finders else None

"""How a run in progress is asked to stop, and learns that another worker has taken it over. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class Stopped(Exception):
    """A run stopped at a step boundary on request; its checkpoint is on disk.

    Attributes:
        reason: the cause that is recorded: 'preempted', 'time_limit' or 'interrupted'.
        step: updates done.
    """

    def __init__(self, reason: str, step: int) -> None:
        super().__init__(f"stopped ({reason}) after update {step}, with a checkpoint")
        self.reason, self.step = reason, step


class Outnumbered(Exception):
    """Another worker has taken the run over: going on would only cost time."""


class EvaluationOutOfMemory(RuntimeError):
    """An evaluation's batch does not fit the device's memory, and this process cannot halve it alone.

    Attributes:
        evaluation_batch: the examples of that batch.
    """

    def __init__(self, evaluation_batch: int, error: BaseException) -> None:
        super().__init__(
            f"out of device memory with {evaluation_batch} examples a pass of evaluation (compute.evaluation_batch): "
            f"{error}"
        )
        self.evaluation_batch = evaluation_batch


def _always() -> bool:
    return True


@dataclass
class RunControl:
    """What the training loop asks at each step boundary.

    Attributes:
        stop_reason: set by another thread or a signal handler; all processes of a run then stop at one step boundary.
        at_boundary: True while the loop will soon check; a run that is still loading may be interrupted instead.
        stopping: True once the run has begun an orderly stop, which another request must not interrupt.
        owned: whether the run still belongs to this attempt.
    """

    stop_reason: str | None = None
    at_boundary: bool = False
    stopping: bool = False
    owned: Callable[[], bool] = field(default=_always)

    def stop_unexplained(self) -> None:
        """Stop at the next step boundary as interrupted, unless a reason was given meanwhile."""
        if self.stop_reason is None:
            self.stop_reason = "interrupted"

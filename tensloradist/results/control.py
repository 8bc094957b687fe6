"""How a run in progress is told to stop, and learns that another has taken it over. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class Stopped(Exception):
    """A run that stopped at a step boundary because it was told to; its checkpoint is on disk.

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
    """The device's memory does not hold an evaluation's batch, which this process cannot halve by itself.

    Attributes:
        evaluation_batch: the examples of that batch.
    """

    def __init__(self, evaluation_batch: int, said: BaseException) -> None:
        super().__init__(
            f"out of device memory with {evaluation_batch} examples a pass of evaluation (compute.evaluation_batch): "
            f"{said}"
        )
        self.evaluation_batch = evaluation_batch


def _always() -> bool:
    return True


@dataclass
class RunControl:
    """What the training loop asks at each step boundary.

    Attributes:
        stop_reason: set by another thread or a signal handler; all processes of a run then stop at one step boundary.
        at_boundary: True while the loop is sure to look soon; a run that is still loading may be interrupted instead.
        stopping: True once the run is on its orderly way to an end, which another request must not cut short.
        owned: whether the run is still this attempt's.
    """

    stop_reason: str | None = None
    at_boundary: bool = False
    stopping: bool = False
    owned: Callable[[], bool] = field(default=_always)

    def stop_unexplained(self) -> None:
        """Stop at the next step boundary as interrupted, unless a reason was given meanwhile."""
        if self.stop_reason is None:
            self.stop_reason = "interrupted"

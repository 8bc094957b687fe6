"""Decisions on failed runs by cause, and the circuit breaker, which holds a cell whose first runs fail alike.

The decisions are pure functions of the failures and of the job's resources, so that all workers of a launch agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tensloradist.results.schema import GOES_ON, Failure
from tensloradist.spec import RunSpec

Action = Literal["retry", "retry_smaller", "retry_larger", "stop"]
MOST_GROWTH = 8  # times a profile's memory or time limit
BREAKER = 3  # runs of a cell that fail first, for one cause, before the rest is held


@dataclass(frozen=True)
class Rule:
    """How often a run is retried after failures of one cause in one launch, and what a person can do."""

    retries: int
    advice: str

    @property
    def goes_on(self) -> bool:
        """Whether nothing is wrong with the run itself: it continues by itself, or with the next launch."""
        return any(self is RULES[cause] for cause in GOES_ON)


FREE = 1000  # as often as the site interrupts it: nothing is wrong with the run
RULES: dict[str, Rule] = {
    "preempted": Rule(FREE, "nothing: it goes on from its checkpoint"),
    "time_limit": Rule(
        FREE, "nothing: it goes on from its checkpoint, or with twice the time where it came no further"
    ),
    "node_failure": Rule(FREE, "nothing; if a node comes up often, exclude it in the profile (sbatch: {exclude: …})"),
    "interrupted": Rule(FREE, "launch again to go on"),
    "killed": Rule(5, "look for the memory limit first: raise memory_gb in the profile"),
    "out_of_host_memory": Rule(1, "it goes on in a job with twice the memory; raise memory_gb in the profile"),
    "out_of_device_memory": Rule(8, "the batch of a pass was halved each time; use a GPU with more memory to avoid it"),
    "device_failure": Rule(
        3,
        "another worker tries it; look at this node's GPU with nvidia-smi, or at the file system that the message "
        "names, and exclude the node in the profile",
    ),
    "communication": Rule(3, "check the network interface (NCCL_SOCKET_IFNAME in the profile) and the nodes"),
    "disk_full": Rule(0, "free space or raise the quota, then launch again: it goes on from its checkpoint"),
    "bug": Rule(
        1,
        "read the log (tensloradist explain RUN --log) and correct the code; the exception would only be raised again",
    ),
    "configuration": Rule(0, "change the sweep file as the message says"),
    "data_missing": Rule(0, "run `tensloradist fetch`, or correct the path"),
    "cancelled": Rule(0, "launch again to go on"),
}


@dataclass(frozen=True)
class Growth:
    """Multiples of a profile's memory and time limit that a run needs, or that a job was given.

    `memory` None: the job has the site's default memory, which cannot be multiplied.
    """

    memory: int | None = 1
    time: int = 1

    def of(self, memory_gb: float | None) -> Growth:
        """The same for a job of a profile with this memory; None: the site's default."""
        return self if memory_gb is not None else replace(self, memory=None)

    def covers(self, needed: Growth) -> bool:
        """Whether a job with these resources is large enough; an unknown default memory always counts as enough."""
        return self.time >= needed.time and (self.memory is None or self.memory >= (needed.memory or 1))


@dataclass(frozen=True)
class Decision:
    """The decision on a run's newest failure, and its reason."""

    action: Action
    reason: str
    micro_batch: int | None = None
    evaluation_batch: int | None = None
    growth: Growth | None = None


def decide(failures: Sequence[Failure], spec: RunSpec | None, given: Growth | None = None) -> Decision:
    """The decision on a run's failures in one launch, oldest first.

    Args:
        spec: the run as it was last tried, to halve its micro-batch; None: not known here, since its worker has not
            recorded a decision yet, which counts as if it could be halved.
        given: the job's resources; None without a job, where no more can be requested.
    """
    cause = failures[-1].cause
    if given is not None and (larger := _larger(failures, given)):
        return larger
    rule, times = RULES[cause], sum(failure.cause == cause for failure in failures)
    if times > rule.retries:
        tried = f"after {times} failures of this kind" if rule.retries else "never tried again by itself"
        return Decision("stop", f"{cause}: {tried}; {rule.advice}")
    if cause == "bug" and failures[-1].traceback is not None:  # only a crash by a signal is worth another try
        return Decision("stop", f"{cause}: {rule.advice}")
    if cause == "out_of_device_memory" and (batch := failures[-1].evaluation_batch) is not None:
        return _smaller_evaluation(batch)
    if cause == "out_of_device_memory":
        if spec is None:
            return Decision("retry_smaller", f"{cause}: the worker is about to halve the micro-batch")
        micro = _micro_batch(spec)
        if micro <= 1:
            return Decision("stop", f"{cause}: the micro-batch is 1 already; use a GPU with more memory, or ZeRO")
        return Decision(
            "retry_smaller", f"{cause}: micro-batch {micro} → {micro // 2}, accumulated to the same batch", micro // 2
        )
    return Decision(
        "retry", f"{cause}: {'tried again at no cost' if rule.retries == FREE else f'retry {times} of {rule.retries}'}"
    )


def _smaller_evaluation(batch: int) -> Decision:
    """Only the evaluation's batch is halved: training fits the device's memory."""
    if batch <= 1:
        reason = "out_of_device_memory: evaluation's batch is 1 already; use a GPU with more memory, or ZeRO"
        return Decision("stop", reason)
    reason = f"out_of_device_memory: evaluation's batch {batch} → {batch // 2}"
    return Decision("retry_smaller", reason, evaluation_batch=batch // 2)


def _larger(failures: Sequence[Failure], given: Growth) -> Decision | None:
    """A job with twice the memory, or twice the time after two jobs without progress; None for other failures."""
    cause = failures[-1].cause
    if cause == "out_of_host_memory" and given.memory is not None:
        what, factor, grown = "memory", given.memory, replace(given, memory=2 * given.memory)
    elif cause == "time_limit" and len(failures) > 1 and _came_no_further(failures[-2], failures[-1]):
        what, factor, grown = "time", given.time, replace(given, time=2 * given.time)
    else:
        return None
    if 2 * factor > MOST_GROWTH:
        return Decision("stop", f"{cause}: with {factor} × the profile's {what}; {RULES[cause].advice}")
    return Decision("retry_larger", f"{cause}: again in a job with {2 * factor} × the profile's {what}", growth=grown)


def _came_no_further(before: Failure, now: Failure) -> bool:
    """Whether a job ran to its time limit without a newer checkpoint."""
    return before.cause == now.cause and now.kept_step is not None and now.kept_step == before.kept_step


def _micro_batch(spec: RunSpec) -> int:
    """Examples in each pass of a process."""
    each = -(-spec.optimizer.batch_size // spec.compute.processes)
    return min(each, spec.compute.micro_batch or each)


def to_hold(first_failures: Sequence[Failure]) -> str | None:
    """The reason to hold the rest of a cell without a result, given its runs' first failures; None for no reason.

    A cause that is not the cell's fault (a preemption, a lost node, a broken GPU) never holds it.
    """
    causes = Counter(f.cause for f in first_failures if not RULES[f.cause].goes_on and f.cause != "device_failure")
    cause, times = next(iter(causes.most_common(1)), (None, 0))
    return f"the first {times} runs of the cell failed: {cause}" if times >= BREAKER else None

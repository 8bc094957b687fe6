"""What follows from a failure, by its cause; and the circuit breaker, which holds a cell whose first runs fail alike.

Pure decisions: they depend on the failures alone, and on what the job was given, so that every worker of a launch
comes to the same one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from tensloradist.results.schema import GOES_ON, Failure

Action = Literal["retry", "retry_smaller", "retry_larger", "stop"]
MOST_GROWTH = 8  # times a profile's memory or time limit
BREAKER = 3  # runs of a cell that fail first, for one cause, before the rest is held


@dataclass(frozen=True)
class Rule:
    """How often a run is tried again after failures of one cause in one launch, and what a person can do."""

    retries: int
    advice: str

    @property
    def goes_on(self) -> bool:
        """Whether nothing is wrong with the run itself: it goes on by itself, or with the next launch."""
        return any(self is RULES[cause] for cause in GOES_ON)


FREE = 1000  # as often as the site makes it necessary: nothing is wrong with the run
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
    """How many times a profile's memory and time limit: what a run needs, or what a job was given.

    `memory` None: the job has the site's default memory, which cannot be multiplied.
    """

    memory: int | None = 1
    time: int = 1

    def of(self, memory_gb: float | None) -> Growth:
        """The same for a job of a profile that gives so much memory, or says nothing of it."""
        return self if memory_gb is not None else replace(self, memory=None)

    def covers(self, needed: Growth) -> bool:
        """Whether a job that was given this is large enough; more memory than the unknown default is not asked for."""
        return self.time >= needed.time and (self.memory is None or self.memory >= (needed.memory or 1))


@dataclass(frozen=True)
class Decision:
    """What follows from a run's newest failure, and why."""

    action: Action
    reason: str
    micro_batch: int | None = None
    evaluation_batch: int | None = None
    growth: Growth | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def decide(failures: Sequence[Failure], run_spec: Mapping[str, Any] | None, given: Growth | None = None) -> Decision:
    """What follows from a run's failures in one launch, oldest first.

    Args:
        run_spec: `compute` and `optimizer` of the run as it was tried last, to halve its micro-batch; None: not known
            here (its worker has yet to record the decision), which counts as if it could be halved.
        given: what the job was given; None outside of one, where nothing can be asked for.
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
        if run_spec is None:
            return Decision("retry_smaller", f"{cause}: the worker is about to halve the micro-batch")
        micro = _micro_batch(run_spec)
        if micro <= 1:
            return Decision("stop", f"{cause}: the micro-batch is 1 already; use a GPU with more memory, or ZeRO")
        return Decision(
            "retry_smaller", f"{cause}: micro-batch {micro} → {micro // 2}, accumulated to the same batch", micro // 2
        )
    return Decision(
        "retry", f"{cause}: {'tried again at no cost' if rule.retries == FREE else f'retry {times} of {rule.retries}'}"
    )


def _smaller_evaluation(batch: int) -> Decision:
    """Training fits the device's memory and stays as it is."""
    if batch <= 1:
        reason = "out_of_device_memory: evaluation's batch is 1 already; use a GPU with more memory, or ZeRO"
        return Decision("stop", reason)
    reason = f"out_of_device_memory: evaluation's batch {batch} → {batch // 2}"
    return Decision("retry_smaller", reason, evaluation_batch=batch // 2)


def _larger(failures: Sequence[Failure], given: Growth) -> Decision | None:
    """A job with twice the memory, or twice the time for a run that came no further in two; None: not for these."""
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
    """Whether a whole job's time added nothing that a checkpoint keeps."""
    return before.cause == now.cause and now.kept_step is not None and now.kept_step == before.kept_step


def _micro_batch(run_spec: Mapping[str, Any]) -> int:
    """Examples a process and pass."""
    compute, optimizer = run_spec.get("compute", {}), run_spec.get("optimizer", {})
    each = -(-int(optimizer.get("batch_size", 1)) // int(compute.get("processes", 1)))
    return min(each, int(compute.get("micro_batch") or each))


def to_hold(first_failures: Sequence[Failure]) -> str | None:
    """Why the rest of a cell without any result should be held, given its runs' first failures; None if it should not.

    A cause that says nothing of the cell (a preemption, a lost node, a broken GPU) never holds it.
    """
    causes = Counter(f.cause for f in first_failures if not RULES[f.cause].goes_on and f.cause != "device_failure")
    cause, times = next(iter(causes.most_common(1)), (None, 0))
    return f"the first {times} runs of the cell failed: {cause}" if times >= BREAKER else None

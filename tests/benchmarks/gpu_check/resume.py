"""A run that is stopped and goes on, against one that is not: equal bits, or on a GPU what its kernels repeat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from gpu_check.compare import compared
from gpu_check.part import Check
from gpu_check.report import Row
from gpu_check.runs import plain_run, resolved, result_of

UPDATES, STOPPED_AFTER = 8, 11  # an epoch, of two; in the second one


def rows(check: Check) -> Iterator[Row]:
    for precision in ("fp32", "bf16"):
        check.say(f"a run in {precision}: stopped, resumed, and whole")
        try:
            yield _of(check, precision)
        except Exception as error:  # one precision may fail by itself
            yield check.failed(f"stop and resume, {precision}", error)


def _of(check: Check, precision: str) -> Row:
    from tensloradist.results.attempts import read_attempt
    from tensloradist.results.control import RunControl
    from tensloradist.results.execute import execute
    from tensloradist.training import train

    name = f"stop and resume, {precision}"
    run = resolved(plain_run(check, updates=UPDATES, precision=precision, optimizer={"epochs": 2}))
    control, updates = RunControl(), 0

    def updated(*_: Any) -> None:
        nonlocal updates
        updates += 1
        if updates == STOPPED_AFTER:
            control.stop_reason = "preempted"

    hook = register_optimizer_step_post_hook(updated)
    try:
        stopped = execute(run, check.folder / f"stopped-{precision}", train, control=control)
    finally:
        hook.remove()
    if stopped.failure is None or stopped.failure.cause != "preempted":
        return check.judged(name, False, f"it was told to stop, and did not: {stopped.failure or stopped.status}")
    resumed = execute(run, check.folder / f"stopped-{precision}", train)
    again = execute(run, check.folder / f"whole-{precision}", train)
    ours, theirs = result_of(resumed), result_of(again)
    assert resumed.attempt is not None and again.attempt is not None
    record = read_attempt(resumed.attempt)
    step = record.resumed_from.step if record and record.resumed_from else None
    if step != STOPPED_AFTER:
        return check.judged(name, False, f"stopped after update {STOPPED_AFTER}, it went on from {step}")
    attempts = (again.attempt, resumed.attempt)
    alike, text = compared(theirs, ours, attempts, precision, bits=not check.on_gpu)
    return check.judged(name, alike, f"after update {step} of {2 * UPDATES}: {text}", resumed_from=step)

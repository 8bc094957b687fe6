"""The project's own training loop in its steady state: kernels an update, waits for the device, and its idle time."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from gpu_check.part import Check
from gpu_check.report import Row
from gpu_check.runs import plain_run, resolved, result_of
from gpu_check.trace import Seen, Tracer, synchronize

TIMED = (3, 8)  # the updates that are timed, after the first ones, which find kernels
TRACED = (8, 13)  # those that are profiled
WARNED = (13, 18)  # those in which torch says where the host waits; the loop looks at the loss after the twentieth
UPDATES = 19
MOST_WAITS = 1  # in five updates
MOST_IDLE = 0.10


class Watch:
    """Counts a run's updates, and looks at some of them through torch's profiler and its warnings of waits."""

    def __init__(self, device: str) -> None:
        self._device, self._tracer, self._updates = device, Tracer(device), 0
        self.seen: Seen | None = None
        self._times: list[float] = []

    @property
    def seconds(self) -> float:
        """An update's, while it is not looked at."""
        return (self._times[1] - self._times[0]) / (TIMED[1] - TIMED[0])

    def updated(self, *_: Any) -> None:
        self._updates += 1
        if self._updates in TIMED:
            synchronize(self._device)
            self._times.append(time.perf_counter())
        if self._updates == TRACED[0]:
            self._tracer.start()
        if self._updates == TRACED[1]:
            self.seen = self._tracer.stop()
        if self._device == "cuda" and self._updates in WARNED:
            torch.cuda.set_sync_debug_mode("warn" if self._updates == WARNED[0] else "default")


def rows(check: Check) -> Iterator[Row]:
    for precision in ("bf16", "fp32"):
        check.say(f"training {UPDATES} updates in {precision}")
        try:
            yield from _of(check, precision)
        except Exception as error:  # one precision may fail by itself
            yield check.failed(f"train(), {precision}", error)


def _of(check: Check, precision: str) -> Iterator[Row]:
    from tensloradist.results.execute import execute
    from tensloradist.training import train

    sizes = {"optimizer": {"batch_size": 64}} if check.on_gpu and precision == "bf16" else {}
    run = resolved(plain_run(check, model="vit_base", updates=UPDATES, precision=precision, **sizes))
    watch = Watch(check.device)
    hook = register_optimizer_step_post_hook(watch.updated)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            outcome = execute(run, check.folder / precision, train)
    finally:
        hook.remove()
        if check.on_gpu:
            torch.cuda.set_sync_debug_mode("default")
    throughput = result_of(outcome).times.throughput
    mfu = throughput.model_flops_utilization if throughput else None
    assert watch.seen is not None
    yield from judge(check, precision, watch.seen, _places(said), watch.seconds, mfu)


def judge(
    check: Check, precision: str, seen: Seen, places: Counter[str], seconds: float, mfu: float | None
) -> Iterator[Row]:
    """What follows from the traced updates.

    Args:
        places: where torch has warned of a wait.
        seconds: of an update that was not traced.
    """
    updates = TRACED[1] - TRACED[0]
    each, what = seen.kernels / updates, "kernels" if check.on_gpu else "operations"
    text = f"{each:.0f} {what} an update, {1e3 * seconds:.1f} ms each"
    if mfu is not None:
        text += f", {mfu:.1%} of the card's peak"
    yield check.judged(f"train(), {precision}", seen.kernels > 0, text, kernels=each, seconds=seconds, mfu=mfu)
    if not check.on_gpu:
        yield check.skipped(f"waits and idle time, {precision}", "there is no GPU to wait for")
        return
    waits = sum(seen.waits.values())
    calls = ", ".join(f"{name} × {number}" for name, number in sorted(seen.waits.items()))
    where = "; ".join(f"{place} × {number}" for place, number in places.most_common(4))
    text = f"{waits} in {updates} updates (at most {MOST_WAITS}){f': {calls}' if calls else ''}"
    text += f"; torch warns at {where}" if where else ""
    figures = {"waits": waits, "calls": seen.waits, "places": dict(places)}
    yield check.judged(f"waits for the GPU, {precision}", waits <= MOST_WAITS, text, **figures)
    busy = (seen.busy or 0.0) / updates
    idle = max(0.0, 1 - busy / seconds)
    text = f"{idle:.1%} of the time (at most {MOST_IDLE:.0%}): it works for {1e3 * busy:.1f} ms of an update"
    yield check.judged(f"the GPU is idle, {precision}", idle <= MOST_IDLE, text, idle=idle, busy=busy)


def _places(said: list[warnings.WarningMessage]) -> Counter[str]:
    """Where torch has warned of a call that waits for the device: file:line -> how often."""
    found = [warning for warning in said if "synchronizing CUDA operation" in str(warning.message)]
    return Counter("/".join(Path(warning.filename).parts[-2:]) + f":{warning.lineno}" for warning in found)

"""What torch's profiler sees of some steps: kernels, waits of the host for the device, and how long it is at work."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
RUNTIME = ("cuda_runtime", "cuda_driver", "hip_runtime")
# Calls of the host that return when the device has come so far.
WAITS = ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize", "CtxSynchronize")
# On the CPU, where nothing is launched: what computes nothing.
_VIEWS = frozenset(
    "aten::" + name
    for name in "alias as_strided chunk detach detach_ empty empty_like empty_strided expand lift_fresh narrow "
    "new_empty permute reshape resolve_conj resolve_neg result_type select slice split squeeze t transpose unbind "
    "unflatten unsqueeze view _reshape_alias _unsafe_view is_nonzero item".split()
)


@dataclass(frozen=True)
class Seen:
    """Of the traced time.

    Attributes:
        kernels: that ran on the device, without copies and fills; on the CPU operations that compute something.
        copies: and fills, on the device.
        waits: how often the host waited for the device, by the runtime's call.
        busy: seconds in which something ran on the device. The profiler slows the host down, but hardly the device, so
            they are to be compared with the time of steps that are not traced.
    """

    kernels: int
    copies: int
    waits: dict[str, int]
    busy: float | None


class Tracer:
    """Traces from `start` to `stop`, which may be in different functions. The device has nothing left to do at both."""

    def __init__(self, device: str) -> None:
        self._device = device
        kinds = [torch.profiler.ProfilerActivity.CPU]
        if device == "cuda":
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        self._profile = torch.profiler.profile(activities=kinds)
        self._within = torch.profiler.record_function("gpu_check")

    def start(self) -> None:
        synchronize(self._device)
        self._profile.start()
        self._within.__enter__()

    def stop(self) -> Seen:
        """Raises RuntimeError where a profiler on a GPU has seen no kernel."""
        self._within.__exit__(None, None, None)
        synchronize(self._device)
        self._profile.stop()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            self._profile.export_chrome_trace(str(path))
            events = json.loads(path.read_text(encoding="utf-8", errors="replace"))["traceEvents"]
        return seen(events, on_gpu=self._device == "cuda")


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seen(events: Iterable[dict[str, Any]], on_gpu: bool) -> Seen:
    """What a trace in Chrome's format says; times there are in microseconds."""
    timed = [event for event in events if event.get("ph") == "X" and "dur" in event]
    if not on_gpu:
        return Seen(len(_leaves(timed)), 0, {}, None)
    here = next(e for e in timed if e.get("name") == "gpu_check" and e.get("cat") in ("user_annotation", "cpu_op"))
    device = sorted((e["ts"], e["ts"] + e["dur"]) for e in timed if e.get("cat") in ON_DEVICE)
    kernels = sum(e.get("cat") == "kernel" for e in timed)
    if not kernels:
        raise RuntimeError("torch's profiler has seen no kernel on the GPU (CUPTI may be missing or not permitted)")
    waits: dict[str, int] = {}
    for event in timed:
        name, begins = str(event.get("name")), here["ts"] <= event["ts"] < here["ts"] + here["dur"]
        if begins and event.get("cat") in RUNTIME and name.endswith(WAITS):
            waits[name] = waits.get(name, 0) + 1
    busy, reached = 0.0, device[0][0]
    for begin, end in device:
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return Seen(kernels, len(device) - kernels, waits, busy / 1e6)


def _leaves(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The CPU's operations that are made of no others, without views."""
    found, threads = [], {event.get("tid") for event in events}
    for thread in threads:
        mine = [event for event in events if event.get("tid") == thread and event.get("cat") == "cpu_op"]
        mine.sort(key=lambda event: (event["ts"], -event["dur"]))
        ends = [event["ts"] + event["dur"] for event in mine]
        found += [event for event, end, after in zip(mine, ends, mine[1:], strict=False) if after["ts"] >= end]
        found += mine[-1:]
    return [event for event in found if event["name"] not in _VIEWS]

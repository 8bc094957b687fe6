"""Clocks for spans of a process's work on its device, which do not make the host wait for the device."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch


class HostClock:
    """Spans by the host's clock, for work on the CPU."""

    def __init__(self) -> None:
        self._began = 0.0
        self._seconds: list[float] = []

    def start(self) -> None:
        self._began = time.perf_counter()

    def stop(self) -> None:
        self._seconds.append(time.perf_counter() - self._began)

    def taken(self) -> list[float]:
        """The seconds of the spans since the last call, in order."""
        seconds, self._seconds = self._seconds, []
        return seconds


class DeviceClock:
    """Spans on the current stream of a CUDA device, from the end of the work before `start` to that before `stop`.

    It makes no difference whether the host runs ahead of the device or waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began: Any = None
        self._spans: deque[tuple[Any, Any]] = deque()

    def start(self) -> None:
        self._began = self._event()

    def stop(self) -> None:
        self._spans.append((self._began, self._event()))

    def taken(self) -> list[float]:
        """The seconds of the spans that the device has completed since the last call, in order."""
        seconds = []
        while self._spans and self._spans[0][1].query():
            began, ended = self._spans.popleft()
            seconds.append(began.elapsed_time(ended) / 1000)
        return seconds

    def _event(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def clock_for(device: torch.device) -> HostClock | DeviceClock:
    """A clock for work on this device."""
    return DeviceClock(device) if device.type == "cuda" else HostClock()

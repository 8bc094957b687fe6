"""The frames of this thread: whether a module's call, which began a pass, still runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

from torch import nn


def caller(wanted: Callable[[FrameType], bool]) -> FrameType | None:
    """The innermost frame that this thread is running and that is wanted."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not wanted(frame):
        frame = frame.f_back
    return frame


def is_running(sought: FrameType) -> bool:
    """Whether this thread is running the frame: it has neither returned nor been ended by an exception."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not sought:  # at every module's entry: no calls here
        frame = frame.f_back
    return frame is not None


def runs_in(thread: int, sought: FrameType) -> bool:
    """Whether another thread is running the frame.

    Args:
        thread: its `threading.get_ident()`.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None and frame is not sought:
        frame = frame.f_back
    return frame is not None


def calling_frame() -> FrameType:
    """The frame of the module's call that runs this hook."""
    frame = caller(lambda frame: frame.f_globals is nn.modules.module.__dict__)
    if frame is None:
        raise RuntimeError("a hook of the adapter was called outside a module's call")
    return frame

"""Signals to a command that launches: ignored or delayed for a while, or handled like Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SECONDS = 20.0  # a stopped process has so long to record the interruption before it is killed


@contextmanager
def ignored(number: signal.Signals) -> Iterator[None]:
    """Ignore a signal; processes that are started meanwhile go on ignoring it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def held_back() -> Iterator[None]:
    """Delay signals that would end this process until the end of the block, which must not be interrupted.

    Python stops waiting for a child when it is interrupted, so the command that submits a job would go on unobserved.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def interrupt_on_termination() -> None:
    """Let a command that is terminated, or whose terminal is closed, end in the same orderly way as after Ctrl-C."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores the second
            signal.signal(number, interrupt)

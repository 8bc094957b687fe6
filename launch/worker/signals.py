"""Signals to a command that launches: ignored or held back for a while, or turned into the interruption of Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ignored(number: signal.Signals) -> Iterator[None]:
    """Ignore a signal; processes that are started meanwhile ignore it for good."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers can be set by the main thread alone
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def held_back() -> Iterator[None]:
    """What would end this process waits until the end of the block, for what must not be left in between.

    Python gives up waiting for a child when it is interrupted: an sbatch would go on, and submit, unseen.
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
    """A terminated command, or one whose terminal is closed, ends in the orderly way of an interrupted one."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores the second
            signal.signal(number, interrupt)

"""Signals to a command that launches: ignored for a while, or turned into the interruption that Ctrl-C is."""

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


def interrupt_on_termination() -> None:
    """A terminated command, or one whose terminal is closed, ends in the orderly way of an interrupted one."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores the second
            signal.signal(number, interrupt)

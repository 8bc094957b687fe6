"""Progress on standard error, for work that takes longer than two seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tensloradist.terminal import description, terminal

PATIENCE, EVERY = 2.0, 10.0  # seconds before the first output, and between lines
Progress = Callable[[int, int], None]


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Yield a function that takes the number of finished steps and their total.

    On a terminal it shows a bar and removes it afterwards; elsewhere it prints a line now and then.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = terminal(stderr=True)
    if not console.is_terminal:
        yield from _lines(what)
        return
    columns = (SpinnerColumn(), description(), BarColumn(), MofNCompleteColumn())
    bar = Bar(*columns, TimeElapsedColumn(), console=console, transient=True)
    task = bar.add_task(what, total=None)
    timer = threading.Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield lambda done, total: bar.update(task, completed=done, total=total)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()


def _lines(what: str) -> Iterator[Progress]:
    last = time.monotonic() + PATIENCE - EVERY
    timer = threading.Timer(PATIENCE, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()

    def show(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > EVERY:
            last = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        timer.cancel()

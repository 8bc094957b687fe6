"""Progress on standard error of work that turns out to take longer than two seconds; nothing of shorter work."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tensloradist.terminal import description, terminal

PATIENCE, EVERY = 2.0, 10.0  # seconds: until anything is shown, and between lines where there is no terminal
Progress = Callable[[int, int], None]


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Yields a function to call with the number done and the number of all; it need not be called.

    On a terminal a bar is shown, and gone afterwards. Elsewhere, a line now and then.
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
    said = time.monotonic() + PATIENCE - EVERY
    timer = threading.Timer(PATIENCE, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()

    def tell(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        timer.cancel()

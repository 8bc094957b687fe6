"""A progress bar on stderr for work that takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tensloradist.terminal import description, terminal

Item = TypeVar("Item")
PATIENCE = 2.0  # seconds


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Disable the progress bars of `datasets`, whose local work takes milliseconds; restore the setting afterwards."""
    import datasets

    disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()


def tracked(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items, with a bar (a line every 10 s if stderr is not a terminal) once they have taken two seconds."""
    from rich.progress import Progress

    console = terminal(stderr=True)
    began = reported = time.monotonic()
    bar = None
    for done, item in enumerate(items):
        now = time.monotonic()
        if console.is_terminal and bar is None and now - began > PATIENCE:
            bar = Progress(description(), *Progress.get_default_columns()[1:], console=console, transient=True)
            bar.start()
            job = bar.add_task(what, total=len(items))
        if bar is not None:
            bar.update(job, completed=done)
        elif not console.is_terminal and now - reported > (PATIENCE if reported == began else 10):
            print(f"{what}: {done} of {len(items)}", file=sys.stderr, flush=True)
            reported = now
        try:
            yield item
        except BaseException:
            if bar is not None:
                bar.stop()
            raise
    if bar is not None:
        bar.stop()

"""Run work in threads ahead of its use, in order, such as decoding of images, during which Pillow releases the GIL.

Imports no torch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST_THREADS = 16
Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(items: Iterable[Item], make: Callable[[Item], Made], threads: int = 1) -> Generator[Made, None, None]:
    """Yield `make(item)` for each item in order, while threads make the next items, one per thread.

    An exception of `make` is raised in its item's place. A caller that may stop early must close the iterator, which
    waits for the items being made and makes no more.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        pending: deque[Future[Made]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(make, item))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def threads_here(threads: int | None = None) -> int:
    """The number of threads that this process may keep busy: its share of the allocated CPUs, at most 16.

    Args:
        threads: the specification's number; None: OMP_NUM_THREADS, by which launches divide a machine, or else the CPUs
            that the process may use divided by the number of the run's processes here. The OMP_NUM_THREADS=1 that
            torchrun sets by default is ignored.
    """
    together = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    given = os.environ.get("OMP_NUM_THREADS", "")
    if threads is None and given.isdecimal() and not (given == "1" and together > 1 and _by_torchrun()):
        threads = int(given)
    if threads is None:
        threads = len(os.sched_getaffinity(0)) // together
    return max(1, min(threads, MOST_THREADS))


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ

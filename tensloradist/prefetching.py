"""Work that threads do ahead of its use, in order: decoding of pictures above all, in which Pillow lets others run.

No torch here.
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
    """`make(item)` for each item, in order; as many of the next ones as there are threads are made meanwhile.

    What `make` raises is raised in its item's place. A caller that may stop early closes the iterator, which waits for
    the items being made and makes no more.
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
    """The threads that this process may keep busy: its share of the CPUs of its allocation, 16 at most.

    Args:
        threads: as the spec says it; None: OMP_NUM_THREADS, by which launches share out a machine, or else the CPUs
            that the process may use, by the number of a run's processes here. torchrun's own OMP_NUM_THREADS=1 does
            not count.
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

"""Failures of single processes of a run, so that the first process, which records the failure, can name its origin.

A failing process writes `attempts/NNNN/ranks/RANK.json` before it ends, and thus before the others, which wait for it,
notice. Imports no torch.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import traceback
from pathlib import Path

from tensloradist.files import write_once
from tensloradist.records import UnreadableRecord, read_record
from tensloradist.results.control import EvaluationOutOfMemory
from tensloradist.results.schema import Cause, RankFailure

log = logging.getLogger("tensloradist")
WAIT_SECONDS = 5.0  # for another process's record to cross a network file system, or a supervisor to notice its end


def write_rank_failure(attempt: Path, rank: int, cause: Cause, error: BaseException) -> None:
    """Record a process's error in the attempt; its first record stays."""
    failure = RankFailure(
        rank=rank,
        host=socket.gethostname(),
        pid=os.getpid(),
        cause=cause,
        message=" ".join(f"{type(error).__name__}: {error}".split()),
        traceback="".join(traceback.format_exception(error)),
        evaluation_batch=error.evaluation_batch if isinstance(error, EvaluationOutOfMemory) else None,
    )
    write_once(attempt / "ranks" / f"{rank}.json", failure.model_dump_json(indent=2) + "\n")


def failed_rank(attempt: Path, wait: float = 0.0) -> RankFailure | None:
    """The process that failed by itself, not because a peer disappeared; None if there is no record of one.

    Args:
        wait: seconds to wait for the record.
    """
    deadline = time.monotonic() + wait
    while True:
        failures = [failure for path in sorted(attempt.glob("ranks/*.json")) if (failure := _read(path)) is not None]
        own = [failure for failure in failures if failure.cause not in ("communication", "interrupted")]
        if own or time.monotonic() >= deadline:
            return min(own, key=lambda failure: failure.rank, default=None)
        time.sleep(0.1)


def _read(path: Path) -> RankFailure | None:
    """A process's failure; None for a record that cannot be read, which counts as none."""
    try:
        return read_record(path, RankFailure, "the record of a process's failure", 1)
    except UnreadableRecord as error:
        log.warning("%s", error)
        return None


def silent(attempt: Path, processes: int) -> list[int]:
    """The processes, except the first, without a record: they hang, or are gone, when the first has failed."""
    return [rank for rank in range(1, processes) if not (attempt / "ranks" / f"{rank}.json").exists()]

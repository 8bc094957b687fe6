"""One run from claim to published result: claim, train, publish, or record why not. No torch here.

The training function is given, so that workers, `tensloradist run` and tests share this one sequence.
"""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tensloradist.errors import UserError
from tensloradist.results.claims import claim
from tensloradist.results.layout import RunFolder, write_replacing
from tensloradist.results.publish import publish, read_result, write_failure, write_spec
from tensloradist.results.schema import Cause, Failure, Result
from tensloradist.spec import RunSpec

Progress = Callable[[dict[str, Any]], None]
Train = Callable[[RunSpec, Path, Progress | None], Result]
log = logging.getLogger("tensloradist")


@dataclass(frozen=True)
class Outcome:
    """What became of one run. `busy`: another process owns it; `present`: it had a result already."""

    status: Literal["finished", "diverged", "present", "busy", "failed"]
    result: Result | None = None
    failure: Failure | None = None
    attempt: Path | None = None


def execute(
    spec: RunSpec,
    root: Path,
    train: Train,
    progress: Progress | None = None,
    started: Callable[[Path], None] | None = None,
    expected: int | None = None,
    stood_still: bool = False,
) -> Outcome:
    """Train a resolved run that has no result yet, in an attempt folder of its own.

    Args:
        root: the results folder.
        started: called with the attempt's folder once the run is claimed.
        expected: the highest claim that the caller has judged; a newer one makes the run 'busy'.
        stood_still: the caller has watched the owner of that claim stand still, and takes over.

    Raises:
        UserError: the results folder cannot be used. Failures of training are returned.
    """
    run = RunFolder(root, spec.run_id)
    if run.result.exists():
        return Outcome("present", read_result(run.result))
    claimed = claim(run, expected=expected, stood_still=stood_still)
    if claimed is None:
        return Outcome("present", read_result(run.result)) if run.result.exists() else Outcome("busy")
    with claimed:
        attempt = run.attempt(claimed.number)
        attempt.mkdir(parents=True)
        if started is not None:
            started(attempt)
        handler = _log_to(attempt / "log.txt")
        try:
            write_spec(run, spec)
            result = train(spec, attempt, progress)
            write_replacing(attempt / "provenance.json", json.dumps(result.provenance, indent=2) + "\n")
            if not publish(run, result):
                log.warning("run %s had a result already; this one stays in %s", run.run_id, attempt)
            return Outcome(result.state, result, attempt=attempt)
        except BaseException as error:
            failure = Failure(
                run_id=run.run_id,
                attempt=claimed.number,
                cause=cause_of(error),
                message=_one_line(error),
                traceback="".join(traceback.format_exception(error)),
            )
            log.error("%s", failure.traceback)
            write_failure(attempt, failure)
            if not isinstance(error, Exception):
                raise
            return Outcome("failed", failure=failure, attempt=attempt)
        finally:
            log.removeHandler(handler)
            handler.close()


def cause_of(error: BaseException) -> Cause:
    """The class of a failure (schema.Failure.cause), from the exception alone."""
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "interrupted"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which this module does not import
        return "out_of_device_memory"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out_of_host_memory"
    if isinstance(error, UserError):
        return "data_missing" if "no such file or folder" in str(error) else "configuration"
    if isinstance(error, FileNotFoundError):
        return "data_missing"
    text = str(error).lower()
    if any(word in text for word in ("nccl", "gloo", "connection reset", "connection closed by peer")):
        return "communication"
    return "bug"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _log_to(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.addHandler(handler)
    log.setLevel(min(log.level or logging.INFO, logging.INFO))
    return handler

"""One run from claim to published result: claim, resume from a checkpoint, train, and publish or record the failure.

No torch here: the training function is an argument, so that workers, `tensloradist run` and tests share this sequence.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tensloradist.errors import DataMissing, UserError
from tensloradist.files import FULL
from tensloradist.records import UnreadableRecord
from tensloradist.results.attempts import begin_attempt, end_attempt
from tensloradist.results.checkpoints import kept_step, newest_valid, remove_checkpoints
from tensloradist.results.claims import HEARTBEAT_SECONDS, claim
from tensloradist.results.control import EvaluationOutOfMemory, Outnumbered, RunControl, Stopped
from tensloradist.results.jobs import JobRef
from tensloradist.results.layout import RunFolder
from tensloradist.results.metrics import read_metrics
from tensloradist.results.publish import (
    give_back_reserved,
    publish,
    read_result,
    reserve_failure,
    write_failure,
    write_spec,
)
from tensloradist.results.ranks import WAIT_SECONDS, failed_rank, silent
from tensloradist.results.schema import AttemptEnd, Cause, Failure, Result
from tensloradist.spec import RunSpec

Progress = Callable[[dict[str, Any]], None]
Train = Callable[[RunSpec, Path, Progress | None, RunControl], Result]
log = logging.getLogger("tensloradist")
# Messages of torch's back ends; a path in a message may have 'gloo' within a longer name.
_COMMUNICATION = re.compile(
    r"nccl|\bgloo\b|ProcessGroupGloo|c10d|connection reset|connection closed by peer", re.IGNORECASE
)
# Messages of CUDA, HIP and their libraries when the device has no memory left, besides OutOfMemoryError.
_NO_DEVICE_MEMORY = re.compile(r"(CUDA|HIP) error: out of memory|_STATUS_ALLOC_FAILED|(CUDA|HIP) out of memory")
# Errors of a program or an installation, which another GPU would only repeat.
_NOT_THE_DEVICE = re.compile(
    r"device-side assert|illegal memory access|misaligned address|no kernel image|peer (access|mapping)|"
    r"invalid (device ordinal|configuration|argument|device function|resource handle|program counter)|"
    r"operation not (supported|permitted)|unsupported toolchain|too many resources requested"
)
_DEVICE = re.compile(
    r"\bECC error|(CUDA|HIP) error\b|CU(BLAS|DNN)_STATUS_(NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR)|"
    r"Error 802|system not yet initialized|GPU is lost|fallen off the bus|device\(s\) is/are busy or unavailable|"
    r"No (CUDA|HIP) GPUs are available|(CUDA|HIP) unknown error|(CUDA|HIP) driver initialization failed"
)
# A file system or its disk does not work on this node: it is mounted read-only, gone, or fails to read.
_BROKEN_DISK = (errno.EIO, errno.EROFS, errno.ESTALE, errno.EREMOTEIO, errno.ENODEV, errno.ENXIO)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # in messages of safetensors, which is written in Rust


@dataclass(frozen=True)
class Outcome:
    """How one run ended. `busy`: another process owns it; `present`: it had a result already."""

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
    control: RunControl | None = None,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    job: JobRef | None = None,
) -> Outcome:
    """Train a resolved run that has no result yet, in a new attempt folder.

    It resumes from the newest valid checkpoint of any earlier attempt.

    Args:
        root: the results folder.
        started: called with the attempt's folder once the run is claimed.
        expected: the highest claim that the caller has judged; a newer one makes the run 'busy'.
        stood_still: the caller has seen no heartbeat of that claim's owner for long enough, and takes over.
        control: through which the run is asked to stop.
        heartbeat_seconds: the interval between heartbeats of the claim's owner.
        job: the job that this process runs in.

    Raises:
        UserError: the results folder cannot be used. Failures of training are returned.
    """
    run = RunFolder(root, spec.run_id)
    if run.result.exists():
        return Outcome("present", read_result(run.result))
    claimed = claim(run, expected=expected, stood_still=stood_still, heartbeat_seconds=heartbeat_seconds, job=job)
    if claimed is None:
        return Outcome("present", read_result(run.result)) if run.result.exists() else Outcome("busy")
    control = control or RunControl()
    control.owned = lambda: not claimed.is_outnumbered
    with claimed:
        attempt = run.attempt(claimed.number)
        attempt.mkdir(parents=True)
        log_file = _log_to(attempt / "log.txt")
        try:
            reserve_failure(attempt)
            _warn_of_torn_metrics(run, claimed.number)
            begin_attempt(run, claimed.number, spec, newest_valid(run), job)
            if started is not None:
                started(attempt)
            write_spec(run, spec)
            result = train(spec, attempt, progress, control)
            first = publish(run, result)
        except BaseException as error:
            failure = _record_failure(run, claimed.number, error, spec, control)
            if not isinstance(error, Exception):
                raise
            return Outcome("failed", failure=failure, attempt=attempt)
        else:
            _tidy(run, result, first)
            return Outcome(result.state, result, attempt=attempt)
        finally:
            give_back_reserved(attempt)
            _close(log_file)


def _record_failure(run: RunFolder, number: int, error: BaseException, spec: RunSpec, control: RunControl) -> Failure:
    """Log and write why an attempt ended; on a full disk the log and the outcome alone say it."""
    attempt = run.attempt(number)
    cause, message, batch = _diagnosis(error, attempt, spec, control)
    failure = Failure(
        run_id=run.run_id,
        attempt=number,
        cause=cause,
        message=message,
        traceback="".join(traceback.format_exception(error)),
        kept_step=kept_step(run),
        evaluation_batch=batch,
    )
    log.error("%s", failure.message if isinstance(error, Stopped) else failure.traceback)
    steps = error.step if isinstance(error, Stopped) else None
    try:
        write_failure(attempt, failure)
        _end(run, number, "failed", failure.cause, steps)
    except OSError as second:
        log.error("the failure could not be recorded: %s", second)
    return failure


def _tidy(run: RunFolder, result: Result, first: bool) -> None:
    """After publication, which nothing undoes: the attempt's end, and the checkpoints, which are no longer needed."""
    try:
        if first:
            remove_checkpoints(run)
        else:
            log.warning("run %s had a result already; this one stays in %s", run.run_id, run.attempt(result.attempt))
        _end(run, result.attempt, result.state if first else "duplicate", steps=result.times.steps)
    except OSError as error:
        log.error("the result is published, but the attempt's end could not be recorded: %s", error)


def _warn_of_torn_metrics(run: RunFolder, number: int) -> None:
    """A crash can tear the last line of an earlier attempt's metrics; training resumes from its checkpoints alone."""
    path = run.attempt(number - 1) / "metrics.jsonl"
    try:
        torn = read_metrics(path)[1] if path.exists() else None
    except UnreadableRecord as error:
        torn = str(error)
    if torn is not None:
        log.warning("%s; this attempt goes on from a checkpoint", torn)


def _end(
    run: RunFolder,
    number: int,
    state: Literal["finished", "diverged", "duplicate", "failed"],
    cause: Cause | None = None,
    steps: int | None = None,
) -> None:
    end = AttemptEnd(run_id=run.run_id, attempt=number, ended=time.time(), state=state, cause=cause, steps=steps)
    end_attempt(run.attempt(number), end)


def _diagnosis(
    error: BaseException, attempt: Path, spec: RunSpec, control: RunControl
) -> tuple[Cause, str, int | None]:
    """Cause, message and evaluation batch of a failure; of another process's if it is the reason for this one."""
    cause, message = _cause_within(error, control), _one_line(error)
    processes = spec.compute.processes
    if cause != "communication" or processes == 1:
        return cause, message, error.evaluation_batch if isinstance(error, EvaluationOutOfMemory) else None
    other = failed_rank(attempt, WAIT_SECONDS)
    if other is not None:
        return (
            other.cause,
            f"process {other.rank} of {processes} ({other.host}): {other.message}",
            other.evaluation_batch,
        )
    quiet = ", ".join(map(str, silent(attempt, processes)))
    who = f"no record of process {quiet} of {processes}, which" if quiet else f"one of the {processes} processes"
    late = f"made the others wait for more than compute.timeout_seconds: {spec.compute.timeout_seconds:g}"
    return cause, f"{message} ({who} is gone, or {late})", None


def _cause_within(error: BaseException, control: RunControl) -> Cause:
    """The cause of a failure; of an interruption, the reason that was given for it, if any."""
    cause = cause_of(error)
    asked = control.stop_reason
    return asked if cause == "interrupted" and asked in get_args(Cause) else cause  # type: ignore[return-value]


def cause_of(error: BaseException) -> Cause:
    """The class of a failure (schema.Failure.cause) by its exception and the exceptions that caused it."""
    if isinstance(error, KeyboardInterrupt | SystemExit | Stopped | Outnumbered):
        return "interrupted"
    numbers = _error_numbers(error)
    if numbers & set(FULL):
        return "disk_full"
    if numbers & set(_BROKEN_DISK):
        return "device_failure"
    # torch's, which this module does not import
    no_memory = isinstance(error, EvaluationOutOfMemory) or type(error).__name__ == "OutOfMemoryError"
    if no_memory or _NO_DEVICE_MEMORY.search(str(error)):
        return "out_of_device_memory"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out_of_host_memory"
    of_device = _DEVICE.search(str(error)) and not _NOT_THE_DEVICE.search(str(error))
    if isinstance(error, UserError) and not of_device:  # a check of the device repeats torch's message
        return "data_missing" if isinstance(error, DataMissing) else "configuration"
    if isinstance(error, FileNotFoundError) and os.sep in str(error.filename):  # a bare name is a program's, not data
        return "data_missing"
    if any(kind.__name__ == "DistError" for kind in type(error).__mro__):  # torch's: the processes did not meet
        return "communication"
    if _COMMUNICATION.search(str(error)):
        return "communication"
    return "device_failure" if of_device else "bug"


def _error_numbers(error: BaseException) -> set[int]:
    """The operating system's error numbers of the exception and of those that caused it."""
    found: set[int] = set()
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            found.add(cause.errno)
        found |= {int(number) for number in _OS_ERROR.findall(str(cause))}
        cause = cause.__cause__
    return found


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _log_to(path: Path) -> logging.Handler:
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log.addHandler(handler)
    log.setLevel(min(log.level or logging.INFO, logging.INFO))
    return handler


def _close(handler: logging.Handler) -> None:
    log.removeHandler(handler)
    handler.close()

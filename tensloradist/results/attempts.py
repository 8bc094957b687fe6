"""An attempt's own records: where it runs and what it goes on from, and how it ended. Imports no torch."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TypeVar

from tensloradist.files import write_once
from tensloradist.records import NewerRecord, UnreadableRecord, read_record
from tensloradist.results.checkpoints import Checkpoint
from tensloradist.results.jobs import JobRef
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_failure_of
from tensloradist.results.schema import (
    GOES_ON,
    TRIED_AGAIN,
    AttemptEnd,
    AttemptRecord,
    DecisionRecord,
    Failure,
    ResumedFrom,
    SlurmJob,
)
from tensloradist.spec import RunSpec
from tensloradist.users import username
from tensloradist.wording import duration

T = TypeVar("T")


def begin_attempt(
    run: RunFolder, number: int, spec: RunSpec, checkpoint: Checkpoint | None, job: JobRef | None = None
) -> AttemptRecord:
    """Write attempt.json, from which all processes of the attempt read the checkpoint that they go on from.

    Args:
        job: the job that this process runs in.
    """
    resumed = None
    if checkpoint is not None:
        resumed = ResumedFrom(
            attempt=checkpoint.attempt,
            step=checkpoint.step,
            checkpoint=checkpoint.folder.relative_to(run.path).as_posix(),
        )
    record = AttemptRecord(
        run_id=run.run_id,
        attempt=number,
        started=time.time(),
        host=socket.gethostname(),
        user=username(),
        pid=os.getpid(),
        slurm=_recorded(job) if job else None,
        compute=spec.compute.model_dump(mode="json"),
        resumed_from=resumed,
    )
    write_once(run.attempt(number) / "attempt.json", record.model_dump_json(indent=2) + "\n")
    return record


def end_attempt(attempt: Path, end: AttemptEnd) -> None:
    """Write end.json; the first word stays."""
    write_once(attempt / "end.json", end.model_dump_json(indent=2) + "\n")


def read_attempt(attempt: Path) -> AttemptRecord | None:
    """An attempt's record; None for a folder without one.

    Raises:
        UnreadableRecord: damaged, made by a newer version, or not readable.
    """
    return read_record(attempt / "attempt.json", AttemptRecord, "the attempt's record", 1)


def read_end(attempt: Path) -> AttemptEnd | None:
    """How an attempt ended; None where it has not, or was killed.

    Raises:
        UnreadableRecord: damaged, made by a newer version, or not readable.
    """
    return read_record(attempt / "end.json", AttemptEnd, "the record of the attempt's end", 1)


def read_decision(attempt: Path) -> DecisionRecord | None:
    """What was decided on an attempt's failure; None without a record.

    Raises:
        UnreadableRecord: damaged, made by a newer version, or not readable.
    """
    return read_record(attempt / "decision.json", DecisionRecord, "the decision's record")


@dataclass(frozen=True)
class AttemptFiles:
    """All records of an attempt that can be read, and what is wrong with the others."""

    record: AttemptRecord | None = None
    end: AttemptEnd | None = None
    failure: Failure | None = None
    decision: DecisionRecord | None = None
    unreadable: tuple[UnreadableRecord, ...] = ()

    @property
    def has_failed(self) -> bool:
        """Whether it failed, and the run is not trained again unless the user asks for it."""
        tried_again = self.decision is not None and self.decision.action in TRIED_AGAIN
        return self.failure is not None and self.failure.cause not in GOES_ON and not tried_again

    @property
    def newer(self) -> NewerRecord | None:
        """The first of the records that a newer version has made."""
        return next((error for error in self.unreadable if isinstance(error, NewerRecord)), None)


def attempt_files(run: RunFolder, number: int) -> AttemptFiles:
    """Whatever can be read of an attempt: one damaged record does not hide the others."""
    attempt, unreadable = run.attempt(number), []

    def read(reader: Callable[[], T | None]) -> T | None:
        try:
            return reader()
        except UnreadableRecord as error:
            unreadable.append(error)
            return None

    return AttemptFiles(
        read(lambda: read_attempt(attempt)),
        read(lambda: read_end(attempt)),
        read(lambda: read_failure_of(run, number)),
        read(lambda: read_decision(attempt)),
        tuple(unreadable),
    )


def attempt_line(run: RunFolder, number: int, zone: tzinfo | None = UTC) -> str:
    """What is on record of an attempt, as one line: when and where it ran, from which checkpoint, and how it ended.

    Args:
        zone: of the time; None for this machine's.
    """
    files, parts = attempt_files(run, number), []
    record, end, failure = files.record, files.end, files.failure
    if record is not None:
        when = datetime.fromtimestamp(record.started, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
        job = f", job {record.slurm.job_id}, restart {record.slurm.restart_count}" if record.slurm else ""
        parts.append(f"{when}{' UTC' if zone is UTC else ''} on {record.host}{job}")
        if record.resumed_from is not None:
            parts.append(f"from step {record.resumed_from.step} of attempt {record.resumed_from.attempt}")
    if end is not None:
        took = "" if record is None else f" after {duration(end.ended - record.started)}"
        parts.append(f"{end.state}{took}" + (f" ({end.cause})" if end.cause and failure is None else ""))
    if failure is not None:
        parts.append(f"{failure.cause}: {failure.message}")
    elif end is None and not files.unreadable:
        has_result = (run.attempt(number) / "result.json").exists()
        parts.append("has a result" if has_result else "did not record how it ended")
    if files.decision is not None:
        parts.append(f"→ {files.decision.reason}")
    return "; ".join([*parts, *(f"! {error}" for error in files.unreadable)])


def resumed_from(attempt: Path) -> Path | None:
    """The checkpoint folder that this attempt goes on from, as its record says."""
    record = read_attempt(attempt)
    if record is None or record.resumed_from is None:
        return None
    return attempt.parents[1] / record.resumed_from.checkpoint


def _recorded(job: JobRef) -> SlurmJob:
    return SlurmJob(
        job_id=job.id,
        array_job_id=job.array_id,
        array_task_id=job.array_index,
        restart_count=job.restart,
        partition=job.partition,
        node_list=job.nodes,
        limits=job.limits,
    )

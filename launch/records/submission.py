"""What a worker needs to know, as immutable files: submitted functions get their path, never objects."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from launch.records.policy import Growth
from tensloradist.records import FORM, UnreadableRecord, read_record
from tensloradist.results.claims import STILL_SECONDS


@dataclass(frozen=True)
class Submission:
    """One launch's runs, and how its workers go about them.

    Attributes:
        manifest, root: the manifest's file, and the results folder.
        threads: CPU threads a worker.
        devices: the machine's GPUs, dealt to workers in turn; empty under Slurm, where each job sees its own.
        baseline: run_id -> its highest claim when the launch began, for the runs to be trained.
        still_seconds: how long the heartbeat of an owner elsewhere must stand still before its run is taken over.
        processes, nodes: train runs of so many processes alone, that say so much of nodes; processes None: of any.
        workers: a job's workers, for runs of one process.
        launch_workers: workers of the whole launch that can be at work at the same time: the more, the less each asks.
        runs_per_worker: after so many a worker ends; None: when nothing is left.
        job_seconds: the time limit that is asked for; None: without a job. `job_end` tells what the job has.
        lead_seconds: before that limit, workers stop.
        requeue: whether a job that is stopped goes back to the queue.
        workers_per_gpu: more than one: the runs' times do not compare with others'.
        stage: the node-local folder for copies of data and backbone, as the profile writes it.
        sources: the hash of the code that jobs run, plugins too, when the launch began; None: not compared.
        snapshot: whether the jobs run a copy of that code.
        profile, option_set, options: the profile's name, and what it asks for, to ask for more of it.
        growth: how many times that memory and time the jobs of this submission have; None outside of jobs.
        tasks: of the array that is submitted; None: not on record, or outside of jobs.
        cluster, user: where it is submitted, and by whom: they alone can tell that no job has come of it.
    """

    manifest: str
    root: str
    threads: int
    devices: tuple[str, ...] = ()
    baseline: dict[str, int] = field(default_factory=dict)
    still_seconds: float = STILL_SECONDS
    processes: int | None = None
    nodes: int | None = None
    workers: int = 1
    launch_workers: int = 1
    runs_per_worker: int | None = None
    job_seconds: float | None = None
    lead_seconds: float = 0.0
    requeue: bool = False
    stage: str | None = None
    workers_per_gpu: int = 1
    sources: str | None = None
    snapshot: bool = False
    profile: str = ""
    option_set: str = ""
    options: dict[str, Any] | None = None
    growth: Growth | None = None
    tasks: int | None = None
    cluster: str | None = None
    user: str | None = None
    __pydantic_config__ = FORM

    @classmethod
    def read(cls, path: Path) -> Submission:
        """A launch's submission.

        Raises:
            UnreadableRecord: absent, damaged, made by a newer version, or not readable.
        """
        found = read_record(path, cls, "the submission")
        if found is None:
            raise UnreadableRecord(path, "there is no such submission")
        return found

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    def job_end(self, seconds_left: Callable[[], float | None]) -> float | None:
        """When this process's job reaches its time limit, by time.monotonic(); None without a job.

        Args:
            seconds_left: asks the scheduler; without an answer, the limit that was asked for begins now.
        """
        if self.job_seconds is None:
            return None
        left = seconds_left()
        return time.monotonic() + (self.job_seconds if left is None else left)

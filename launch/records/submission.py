"""`submission.json`: what a worker needs to know. Submitted functions get its path, never objects."""

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
    """The runs of a launch, and how its workers train them.

    Attributes:
        manifest, root: the manifest's file, and the results folder.
        threads: CPU threads of each worker.
        devices: the machine's GPUs, dealt to workers in turn; empty in jobs, each of which sees its own.
        baseline: run_id -> its highest claim when the launch began, for the runs to be trained.
        still_seconds: take a run over after this long without a heartbeat of its owner on another machine.
        processes, nodes: train only runs with this many processes and this `compute.nodes`; processes None: any.
        workers: of each job, for runs of one process.
        launch_workers: workers of the whole launch that can run at the same time: the more, the less often each asks.
        runs_per_worker: a worker ends after this many; None: when no run is left.
        job_seconds: the requested time limit; None: without a job. `job_end` gives the job's own.
        lead_seconds: workers stop this long before that limit.
        requeue: whether a job that is stopped goes back to the queue.
        workers_per_gpu: more than one: the runs' times are not comparable with others'.
        stage: the node-local folder for copies of data and backbone, as the profile has it.
        sources: the hash of the code of jobs, with plugins, when the launch began; None: not compared.
        snapshot: whether the jobs run a copy of that code.
        profile, option_set, options: the profile's name and the requested resources, to request more of them.
        growth: how many times those resources the jobs of this submission have; None without jobs.
        tasks: of the submitted array; None: not recorded, or without jobs.
        cluster, user: where and by whom it is submitted: only there and then is it certain that it has no job.
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

"""The workers of a launch on this machine: started through submitit's local executor, and their orderly stop."""

from __future__ import annotations

import math
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch import site
from launch.planning.plan import Plan, write_manifest
from launch.records.origin import Origin
from launch.records.submission import Submission
from launch.records.worker_status import read_word
from launch.worker.signals import STOP_SECONDS, ignored
from launch.worker.worker import Worker
from tensloradist.caching import redirect_libraries
from tensloradist.files import write_once
from tensloradist.gpus import visible_gpus
from tensloradist.records import UnreadableRecord
from tensloradist.results.claims import STILL_SECONDS, highest_claim
from tensloradist.results.layout import RunFolder, new_launch_folder

MOST_WORKERS = 8  # by default, where there is no GPU to count
FOREVER_MINUTES = 60 * 24 * 365


def default_workers(plan: Plan) -> int:
    """One for each GPU; on CPUs, one for every `compute.threads` (1) cores, up to eight; never more than runs.

    One if runs have several processes. Small runs gain little from a second thread, so each worker has one core.
    """
    compute = [run.spec.compute for run in plan.sweep.runs]
    if any(part.processes > 1 for part in compute):
        return 1
    gpus = () if all(part.device == "cpu" for part in compute) else visible_gpus()
    threads = max((part.threads or 1 for part in compute), default=1)
    on_cpu = min(len(os.sched_getaffinity(0)) // threads, MOST_WORKERS)
    return max(1, min(len(gpus) or on_cpu, len(plan.to_run()) + len(plan.to_watch())))


def run_worker(submission: str, index: int) -> None:
    """Run one worker; its arguments are a submission's path and a number, so that submitit pickles nothing else."""
    redirect_libraries()
    Worker(Path(submission), str(index), index, site.scheduler()).drain()


class LocalLaunch:
    """The workers of one launch, and the folder through which they are watched and stopped."""

    def __init__(self, plan: Plan, root: Path, workers: int, still_seconds: float = STILL_SECONDS) -> None:
        self.plan, self.workers = plan, workers
        self.folder = new_launch_folder(root, plan.sweep.name)
        manifest = write_manifest(plan.sweep, root)
        wanted = plan.to_run() + plan.to_watch()
        self.baseline = {run.run_id: highest_claim(RunFolder(root, run.run_id)) for run in wanted}
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        devices = () if all(run.spec.compute.device == "cpu" for run in wanted) else visible_gpus()
        submission = Submission(
            str(manifest.absolute()),
            str(root.absolute()),
            threads,
            devices,
            self.baseline,
            still_seconds,
            launch_workers=workers,
            workers_per_gpu=math.ceil(workers / len(devices)) if devices else 1,
        )
        self.submission = self.folder / "submission.json"
        write_once(self.submission, submission.to_json())
        Origin.of(plan.sweep.path, root).write(self.folder)
        self.jobs: list[Any] = []

    def start(self) -> None:
        import submitit

        executor = submitit.LocalExecutor(folder=self.folder / "submitit")
        # Which GPU a worker's child sees is set by the worker, so submitit is asked for none.
        executor.update_parameters(timeout_min=FOREVER_MINUTES)
        # Ctrl-C and a closed terminal signal all processes: workers ignore both, and stop when a file asks them to.
        with ignored(signal.SIGINT), ignored(signal.SIGHUP):
            self.jobs = [
                executor.submit(run_worker, str(self.submission.absolute()), index) for index in range(self.workers)
            ]

    def is_running(self) -> bool:
        return any(not job.done() for job in self.jobs)

    def crashed_workers(self) -> list[str]:
        """For each worker that ended by an error of its own: the last line of the error."""
        lines = []
        for job in self.jobs:
            if job.done() and (error := job.exception()) is not None:
                lines.append(str(error).strip().splitlines()[-1])
        return lines

    def stop(self) -> None:
        """Ask the workers that still run to stop and wait for them; kill those that do not stop."""
        if not self.is_running():
            return
        write_once(self.folder / "stop", "")
        deadline = time.monotonic() + STOP_SECONDS + 5
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(0.1)
        for index, job in enumerate(self.jobs):
            # submitit's own cancel() sends the signal that workers ignore. A killed worker's child ends by itself.
            with suppress(ProcessLookupError, UnreadableRecord):  # it has ended meanwhile
                if not job.done() and (word := read_word(self.folder / f"worker-{index}.json")) is not None:
                    os.kill(word.pid, signal.SIGKILL)

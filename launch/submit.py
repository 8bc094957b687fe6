"""Launching on this machine: workers through submitit's local executor, and their orderly stop."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launch.plan import Plan, write_manifest
from launch.worker import STOP_SECONDS, Submission, run_worker
from tensloradist.results.claims import highest_claim
from tensloradist.results.layout import RunFolder, sweep_folder, write_once

MOST_WORKERS = 8  # by default, where there is no GPU to count
FOREVER_MINUTES = 60 * 24 * 365


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; asked of nvidia-smi, not of torch."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(device for device in given.split(",") if device not in ("", "-1"))
    if shutil.which("nvidia-smi") is None:
        return ()
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")] if listed.returncode == 0 else []
    return tuple(str(index) for index in range(len(lines)))


def default_workers(plan: Plan) -> int:
    """A worker a GPU; on CPUs one a core, up to eight; never more than runs; one where runs have several processes."""
    if any(run.spec.compute.processes > 1 for run in plan.sweep.runs):
        return 1
    gpus = len(visible_gpus())
    return max(1, min(gpus or min(len(os.sched_getaffinity(0)), MOST_WORKERS), len(plan.to_run())))


class LocalLaunch:
    """The workers of one launch, and the folder through which they are watched and stopped."""

    def __init__(self, plan: Plan, root: Path, workers: int) -> None:
        self.plan, self.workers = plan, workers
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        self.folder = sweep_folder(root, plan.sweep.name) / "launches" / f"{stamp}-{uuid.uuid4().hex[:6]}"
        manifest = write_manifest(plan.sweep, root)
        self.baseline = {run.run_id: highest_claim(RunFolder(root, run.run_id)) for run in plan.to_run()}
        threads = max(1, len(os.sched_getaffinity(0)) // workers)
        submission = Submission(str(manifest.absolute()), str(root.absolute()), threads, visible_gpus(), self.baseline)
        self.submission = self.folder / "submission.json"
        write_once(self.submission, submission.to_json())
        self.jobs: list[Any] = []

    def start(self) -> None:
        import submitit

        executor = submitit.LocalExecutor(folder=self.folder / "submitit")
        # Which GPU a worker's child sees is set by the worker, so submitit is asked for none.
        executor.update_parameters(timeout_min=FOREVER_MINUTES)
        # Ctrl-C reaches every process of a terminal: the workers ignore it, and are told to stop through a file.
        with _ignored(signal.SIGINT):
            self.jobs = [
                executor.submit(run_worker, str(self.submission.absolute()), index) for index in range(self.workers)
            ]

    def is_running(self) -> bool:
        return any(not job.done() for job in self.jobs)

    def crashed_workers(self) -> list[str]:
        """For each worker that ended by an error of its own: the last line of what it said."""
        lines = []
        for job in self.jobs:
            if job.done() and (error := job.exception()) is not None:
                lines.append(str(error).strip().splitlines()[-1])
        return lines

    def stop(self) -> None:
        """Tell the workers to stop and wait until they have; end by force those that do not."""
        write_once(self.folder / "stop", "")
        deadline = time.monotonic() + STOP_SECONDS + 5
        while self.is_running() and time.monotonic() < deadline:
            time.sleep(0.1)
        for job in self.jobs:
            if not job.done():
                job.cancel()


@contextmanager
def _ignored(number: signal.Signals) -> Iterator[None]:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)

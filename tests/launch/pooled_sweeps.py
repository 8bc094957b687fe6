"""Sweeps on the pool of processes: their submission, what a task runs, and the record of what was accepted."""

import os
import signal
import sys
import time
from pathlib import Path

from pool import REQUEUE_CODE, Pool

from launch.planning.plan import write_manifest
from launch.records.job_arrays import Asked, JobArray, Submitted, is_recorded
from launch.records.submission import Submission
from launch.scheduler import JobRequest
from launch.worker.liveness import JobsAlive
from launch.worker.worker import Worker
from tensloradist.files import write_once
from tensloradist.results.claims import highest_claim
from tensloradist.results.layout import RunFolder, new_launch_folder, sweep_folder
from tensloradist.users import username


def array_of(job, known):
    """What is recorded of an array that the pool has accepted."""
    return JobArray(
        job_id=job,
        tasks=known.tasks,
        options="pool",
        processes=1,
        runs=len(known.baseline),
        runs_per_task=None,
        workers_per_task=1,
        time_limit_minutes=known.job_seconds / 60,
        asked=Asked(cpus=known.threads, memory_gb=None, gpus_per_node=0, nodes=1),
    )


def launch(plan, root, pool, tasks, parallel=8):
    """Submit what a checked sweep has left to train, and record it; returns the launch's folder."""
    folder, manifest = new_launch_folder(root, plan.sweep.name), write_manifest(plan.sweep, root)
    known = Submission(
        str(manifest.absolute()),
        str(root.absolute()),
        threads=1,
        baseline={run.run_id: highest_claim(RunFolder(root, run.run_id)) for run in plan.to_run() + plan.to_watch()},
        launch_workers=tasks,
        job_seconds=600.0,
        lead_seconds=5.0,
        requeue=True,
        profile="pool",
        tasks=tasks,
    )
    path = folder / "submission-0.json"
    write_once(path, known.to_json())
    job = pool.submit(
        JobRequest(
            name=plan.sweep.name, run=run_task, submission=path, tasks=tasks, parallel=parallel, logs=folder / "pool"
        )
    )
    record_of(known, pool).with_array(folder, array_of(job, known)).write(folder)
    return folder


def run_task(submission):
    """One task: a worker that SIGTERM stops, in a process that knows nothing of Slurm."""
    pool = Pool(os.environ["POOL_FOLDER"])
    job, known = pool.current_job(), Submission.read(Path(submission))
    name = f"{job.key}.{job.restart}.0"
    worker = Worker(Path(submission), name, scheduler=pool, job_alive=JobsAlive(pool, known.launch_workers))
    signal.signal(signal.SIGTERM, lambda number, frame: worker.ask_to_stop("preempted"))
    unfinished = worker.drain()
    assert not [name for name in sys.modules if name.startswith("launch.slurm")]
    sys.exit(REQUEUE_CODE if unfinished else 0)


def adopt(pool, name, root):
    """Record the jobs of launches that were killed before they could; returns those that cannot be recorded."""
    left = []
    for path in (sweep_folder(root, name) / "launches").glob("*/submission-0.json"):
        found = pool.request_of(path)
        if found is not None and not is_recorded(path.parent, 0):
            (job, keys), known = found, Submission.read(path)
            if not record_of(known, pool).record(path.parent, 0, array_of(job, known)):
                left += [(path.parent, key) for key in keys]
    return left


def record_of(known, pool):
    """A launch's record before its array is added."""
    return Submitted(known.profile, username(), "", time.time(), None, "", cluster=pool.cluster())

"""What a Slurm task runs: one worker, several workers, or one process of a multi-process run.

Slurm sends SIGUSR2 before the time limit, and on preemption SIGUSR2 or SIGTERM, depending on the site. The handlers,
installed after submitit's, set a flag. The runs in progress stop at their next step boundary with a checkpoint, and the
task ends with the exit code that puts its job back into the queue.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launch.records.submission import Submission
from launch.slurm import commands
from launch.slurm.batch import REQUEUE_CODE
from launch.slurm.client import Slurm
from launch.slurm.rendezvous import NodeGroup, Place, Rendezvous, follow
from launch.worker.children import ChildFactory
from launch.worker.liveness import JobsAlive
from launch.worker.worker import Worker
from tensloradist.gpus import only, visible_gpus
from tensloradist.results.schema import Cause


def run_task(submission: str) -> None:
    """Run one task of a job; its argument is the path of a submission, so that submitit pickles nothing else."""
    path = Path(submission)
    place, known = Place.here(), Submission.read(path)
    if place.tasks > 1:
        wants_requeue = _one_rank(path, place, known)
    elif known.workers > 1:
        wants_requeue = _several_workers(path, place, known)
    else:
        wants_requeue = _one_worker(path, place.worker_name(0))
    if wants_requeue and known.requeue:
        sys.exit(REQUEUE_CODE)


def _one_worker(path: Path, name: str, device: int = 0) -> bool:
    return _drain(_worker(path, name, device), path)


def _worker(
    path: Path, name: str, device: int = 0, make_group: Callable[[ChildFactory], NodeGroup] | None = None
) -> Worker:
    """A worker that Slurm's signals stop."""
    slurm, known = Slurm(), Submission.read(path)
    alive = JobsAlive(slurm, known.launch_workers)
    worker = Worker(path, name, device, slurm, alive, make_group)
    _on_signals(known, worker.ask_to_stop)
    return worker


def _drain(worker: Worker, path: Path) -> bool:
    """Drain the queue, and submit larger jobs for runs that need them; returns whether to requeue the job."""
    unfinished = worker.drain()
    if worker.stop_reason is None and (needs := worker.needing_more()):
        from launch.slurm.resubmit import submit_larger

        submit_larger(path, worker.submission, needs, run_task)
    return unfinished


def _several_workers(path: Path, place: Place, known: Submission) -> bool:
    """Start a process for each worker of this job, and pass signals on to them; returns whether to requeue the job."""
    names = [place.worker_name(index) for index in range(known.workers)]
    gpus = visible_gpus()
    workers = []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # inherited, so that a signal does not kill a worker without a handler
    for index, name in enumerate(names):
        environment = dict(os.environ)
        if gpus:
            environment |= only((gpus[index % len(gpus)],))
        command = [sys.executable, "-m", "launch.slurm.task", str(path), name]
        workers.append(subprocess.Popen(command, env=environment, start_new_session=True))

    def pass_on(cause: Cause) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGUSR2)

    _on_signals(known, pass_on)
    codes = [worker.wait() for worker in workers]
    bad = [code for code in codes if code not in (0, REQUEUE_CODE)]
    if bad and all(code > 0 for code in bad) and REQUEUE_CODE not in codes:
        raise RuntimeError(f"{len(bad)} of {len(workers)} workers failed with exit codes {bad}; see {path.parent}")
    return REQUEUE_CODE in codes or bool(bad)


def _one_rank(path: Path, place: Place, known: Submission) -> bool:
    """Lead with a worker in the first task, and follow it in the others; returns whether to requeue the job."""
    rendezvous, name = Rendezvous(path.parent, place), place.worker_name(place.rank)
    if place.rank:
        stop_reasons: list[str] = []
        _on_signals(known, stop_reasons.append)
        children = ChildFactory(known, 0, path.parent / f"worker-{name}.err")
        follow(rendezvous, place, children, lambda: stop_reasons[0] if stop_reasons else None)
        return False
    numbers = itertools.count(1)  # of this job's runs

    def next_group(children: ChildFactory) -> NodeGroup:
        number = next(numbers)
        return NodeGroup(rendezvous, number, children.child(place=place.environment(number)))

    try:
        return _drain(_worker(path, name, make_group=next_group), path)
    finally:
        rendezvous.end()


def _on_signals(submission: Submission, say: Callable[[Cause], None]) -> None:
    """Call `say` with the reason when Slurm signals this task."""
    end = submission.job_end(commands.seconds_left)

    def handle(number: int, frame: object) -> None:
        # Slurm rounds: the signal may come up to a minute early.
        near = end is not None and time.monotonic() > end - submission.lead_seconds - 75
        say("time_limit" if near and number == signal.SIGUSR2 else "preempted")

    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, handle)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the task passes on the signals that concern its workers
    sys.exit(REQUEUE_CODE if _one_worker(Path(sys.argv[1]), sys.argv[2]) else 0)

"""What a Slurm task runs: one worker, or as many as the job has GPUs, or one rank of a multi-process run.

Signals: SIGUSR2 comes before the time limit, and on preemption where the site asks for it; SIGTERM on preemption
elsewhere. The handlers, installed after submitit's, set a flag; the runs in progress stop at their next step boundary
with a checkpoint, and the task ends with the exit code that puts its job back into the queue.
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
from launch.slurm.liveness import JobsAlive
from launch.slurm.rendezvous import Board, NodeGroup, Place, follow
from launch.worker.children import ChildFactory
from launch.worker.worker import Worker
from tensloradist.gpus import only, visible_gpus
from tensloradist.results.schema import Cause

REQUEUE_CODE = 85  # the batch script puts the job back into the queue when a task ends with it, or by a signal


def run_task(submission: str) -> None:
    """What submitit runs: tiny, importable, its argument just a path."""
    path = Path(submission)
    place, known = Place.here(), Submission.read(path)
    if place.tasks > 1:
        wants_requeue = _one_rank(path, place, known)
    elif known.workers > 1:
        wants_requeue = _several_workers(path, place, known)
    else:
        wants_requeue = _one_worker(path, f"{place.job}.{place.restart}.0")
    if wants_requeue and known.requeue:
        sys.exit(REQUEUE_CODE)


def _one_worker(path: Path, name: str, device: int = 0) -> bool:
    worker = Worker(path, name, device, job_alive=_jobs_alive(path))
    _on_signals(worker.submission, lambda cause: setattr(worker, "told", worker.told or cause))
    return _drained(worker, path)


def _jobs_alive(path: Path) -> JobsAlive:
    return JobsAlive(Submission.read(path).launch_workers)


def _drained(worker: Worker, path: Path) -> bool:
    """Drain, and see to it that runs that need larger jobs get them; whether the job shall be queued again."""
    unfinished = worker.drain()
    if worker.told is None and (needs := worker.needing_more()):
        from launch.slurm.resubmit import submit_larger

        submit_larger(path, worker.submission, needs)
    return unfinished


def _several_workers(path: Path, place: Place, known: Submission) -> bool:
    """A process for each worker of this job; signals are passed on to them."""
    names = [f"{place.job}.{place.restart}.{index}" for index in range(known.workers)]
    gpus = visible_gpus()
    workers = []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # inherited, so that a signal before a worker's own handler kills nobody
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
        raise RuntimeError(f"of {len(workers)} workers, {len(bad)} ended with {bad}; see {path.parent}")
    return REQUEUE_CODE in codes or bool(bad)


def _one_rank(path: Path, place: Place, known: Submission) -> bool:
    """The first task leads with a worker, the others follow."""
    board, name = Board(path.parent, place), f"{place.job}.{place.restart}.{place.rank}"
    if place.rank:
        told: list[str] = []
        _on_signals(known, told.append)
        children = ChildFactory(known, 0, path.parent / f"worker-{name}.err")
        follow(board, place, children, lambda: told[0] if told else None)
        return False
    numbers = itertools.count(1)  # of this job's runs

    def next_group(children: ChildFactory) -> NodeGroup:
        number = next(numbers)
        return NodeGroup(board, number, children.child(place=place.environment(number)))

    worker = Worker(path, name, job_alive=_jobs_alive(path), make_group=next_group)
    _on_signals(worker.submission, lambda cause: setattr(worker, "told", worker.told or cause))
    try:
        return _drained(worker, path)
    finally:
        board.end()


def _on_signals(submission: Submission, say: Callable[[Cause], None]) -> None:
    """Call `say` with the reason when Slurm signals this task."""
    end = submission.job_end()

    def handle(number: int, frame: object) -> None:
        # Slurm rounds: the signal may come up to a minute early.
        near = end is not None and time.monotonic() > end - submission.lead_seconds - 75
        say("time_limit" if near and number == signal.SIGUSR2 else "preempted")

    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, handle)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the task passes on what concerns its workers
    sys.exit(REQUEUE_CODE if _one_worker(Path(sys.argv[1]), sys.argv[2]) else 0)

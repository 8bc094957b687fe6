"""What is recorded of an array that Slurm has accepted."""

from __future__ import annotations

from launch.records.job_arrays import Asked, JobArray
from launch.records.submission import Submission
from launch.slurm.profile import Options


def accepted_array(job: str, tasks: int, known: Submission) -> JobArray:
    """The record of an array that Slurm has accepted.

    Args:
        job: its id.
        known: the submission that its tasks read.
    """
    given = Options.recorded(known.options or {})
    options = given.grown(known.growth) if known.growth else given
    processes = known.processes or 1
    return JobArray(
        job_id=job,
        tasks=tasks,
        options=known.option_set,
        processes=processes,
        runs=len(known.baseline),
        runs_per_task=known.runs_per_worker and known.runs_per_worker * known.workers,
        workers_per_task=known.workers,
        time_limit_minutes=options.time_minutes,
        asked=Asked(
            cpus=options.cpus_per_worker * known.workers,
            memory_gb=options.memory_gb,
            gpus_per_node=options.gpus_per_node,
            nodes=options.layout(processes, known.nodes)[0],
        ),
    )

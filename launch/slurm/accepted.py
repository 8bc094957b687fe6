"""What is recorded of an array that Slurm has accepted."""

from __future__ import annotations

from typing import Any

from launch.records.submission import Submission
from launch.slurm.profile import Options


def accepted_array(job: str, tasks: int, known: Submission) -> dict[str, Any]:
    """What is recorded of an array that Slurm has accepted.

    Args:
        job: its id.
        known: what its tasks were given.
    """
    given = Options.recorded(known.options or {})
    options = given.grown(known.growth) if known.growth else given
    processes = known.processes or 1
    return {
        "job_id": job,
        "tasks": tasks,
        "options": known.option_set,
        "processes": processes,
        "runs": len(known.baseline),
        "runs_per_task": known.runs_per_worker and known.runs_per_worker * known.workers,
        "workers_per_task": known.workers,
        "time_limit_minutes": options.time_minutes,
        "asked": {
            "cpus": options.cpus_per_worker * known.workers,
            "memory_gb": options.memory_gb,
            "gpus_per_node": options.gpus_per_node,
            "nodes": options.layout(processes, known.nodes)[0],
        },
    }

"""The standard output and error of Slurm jobs: the files' names, which submitit gives, and what Slurm adds to them."""

from __future__ import annotations

import re
from pathlib import Path

from launch.records.worker_status import last_line

LOG = re.compile(r"(\d+)(_\d+)?_\d+_log\.(?:out|err)")
# What Slurm adds after the line that gives the reason: that a task has ended, and what it does about that.
ECHO = re.compile(
    r"srun: (error: .*(Exited with|Killed|Terminated)|launch/|Job step aborted|Terminating|Force)|.*\*\*\* (JOB|STEP)"
)


def last_words(folder: Path, key: str) -> tuple[str | None, Path]:
    """The last line of a job's standard error that says why it ended, if any, and the path of that file."""
    logs = sorted(folder.glob(f"submitit-*/{key}_*_log.err"))
    line = next((line for log in logs if (line := last_line(log, ECHO) or last_line(log))), None)
    return line, logs[0] if logs else folder / "submitit-0" / f"{key}_0_log.err"

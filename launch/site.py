"""What this site has: its scheduler. A folder like `launch/slurm/` for another scheduler is chosen here."""

from __future__ import annotations

from launch.scheduler import Scheduler
from launch.slurm.client import Slurm


def scheduler() -> Scheduler:
    """The scheduler of this site."""
    return Slurm()

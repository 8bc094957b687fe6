"""Where jobs that were queued by earlier versions find their function: submitit pickles functions by their address."""

from launch.slurm.task import run_task

__all__ = ["run_task"]

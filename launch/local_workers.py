"""The earlier address of `launch.local.workers`."""

from launch.local.workers import run_worker

__all__ = ["run_worker"]

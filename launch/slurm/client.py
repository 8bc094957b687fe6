"""Slurm as a `launch.scheduler.Scheduler`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from launch.scheduler import Ended, Job, JobRequest, Scheduler, Usage
from launch.slurm import adoption, batch, commands, logs
from launch.slurm.commands import SiteLimits
from tensloradist.results.jobs import JobRef


class Slurm(Scheduler):
    """The Slurm cluster whose commands this machine has."""

    name = "Slurm"

    def cluster(self) -> str | None:
        return commands.cluster()

    def current_job(self) -> JobRef | None:
        return commands.current_job()

    def seconds_left(self) -> float | None:
        return commands.seconds_left()

    def submit(self, request: JobRequest) -> str:
        return batch.submit(request)

    def alive(self) -> dict[str, Job] | None:
        return commands.queue()

    def ended(self, keys: Iterable[str]) -> dict[str, Job] | None:
        return commands.ended(keys)

    def end_of(self, key: str, restart: int) -> Ended | None:
        return commands.end_of(key, restart)

    def usage(self, keys: Iterable[str]) -> list[Usage] | None:
        return commands.usage(keys)

    def cancel(self, keys: Iterable[str]) -> str | None:
        return commands.cancel(keys)

    def limits(self) -> SiteLimits | None:
        return commands.limits()

    def adopt(self, name: str, root: Path) -> list[tuple[Path, str]]:
        return adoption.adopt(name, root)

    def last_words(self, folder: Path, key: str) -> tuple[str | None, Path]:
        return logs.last_words(folder, key)

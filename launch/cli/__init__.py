"""The commands that plan, launch and watch sweeps: each is a signature and one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from tensloradist.results.jobs import JobRef


def register(app: typer.Typer) -> None:
    """Add this package's commands to the application."""
    from launch.cli import doctor, plan_and_launch, sweep
    from tensloradist.results.jobs import find_job_with

    find_job_with(_current_job)
    for module in (plan_and_launch, sweep, doctor):
        module.register(app)


def _current_job() -> JobRef | None:
    from launch import site

    return site.scheduler().current_job()

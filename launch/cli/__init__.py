"""The commands that plan, launch and watch sweeps: each is a signature and one call."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this package's commands to the application."""
    from launch.cli import doctor, plan_and_launch, sweep

    for module in (plan_and_launch, sweep, doctor):
        module.register(app)

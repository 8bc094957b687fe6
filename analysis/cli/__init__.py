"""The commands of the analysis; the application finds them through `register`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this package's commands to the application."""
    from analysis.cli import cell_commands, report_commands

    report_commands.register(app)
    cell_commands.register(app)

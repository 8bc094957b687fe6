"""The commands of the analysis; the application finds them through `register`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this package's commands to the application."""
    from analysis.cli import cells, report

    for module in (report, cells):
        module.register(app)

"""The options and arguments that commands share, one definition each, and the headings of `tensloradist --help`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

BEFORE = "Before a sweep"
DURING = "While it runs"
AFTER = "Afterwards"
ONE_RUN = "One run"
MACHINE = "This machine and your cluster"
HEADINGS = (BEFORE, DURING, AFTER, ONE_RUN, MACHINE)

ResultsOption = Annotated[
    Path | None, typer.Option("--results", help="Results folder [TENSLORADIST_RESULTS, ./results].")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ProfileOption = Annotated[
    str | None, typer.Option("--profile", help="Cluster profile: a file, or a shipped one (`tensloradist profiles`).")
]
PluginOption = Annotated[
    list[str] | None, typer.Option("--plugin", help="A module that adds a factorization (repeatable).")
]
SweepArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a shipped or a launched sweep.")
]
LaunchedSweepArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a launched sweep.")
]
FileArgument = Annotated[
    str, typer.Argument(metavar="SWEEP", help="A sweep or run file, or the name of a shipped sweep.")
]
SweepsArgument = Annotated[
    list[str], typer.Argument(metavar="SWEEP...", help="Sweep files, names of launched sweeps, or bundles.")
]
SweepOption = Annotated[
    list[str] | None,
    typer.Option("--sweep", help="A sweep file, launched sweep or bundle (repeatable) [the only launched sweep]."),
]
RunFolderArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a finished run, results/runs/ID.")
]
CellArgument = Annotated[
    str, typer.Argument(metavar="CELL", help="'method, task, condition', as the tables print them.")
]
MarginOption = Annotated[
    float | None,
    typer.Option("--margin", min=0.0, help="Half the region of practical equivalence, in points [0.5]."),
]


def add(app: typer.Typer, heading: str, *commands: Callable[..., Any], **settings: Any) -> None:
    """Add commands to the application under one of `HEADINGS`.

    Args:
        settings: passed to `app.command`.
    """
    for command in commands:
        app.command(rich_help_panel=heading, **settings)(command)

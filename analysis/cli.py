"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    sweeps: Annotated[
        list[str], typer.Argument(metavar="SWEEP...", help="Sweep files, names of launched sweeps, or bundles.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for tables.md and tables.csv.")],
    results: Annotated[
        Path | None, typer.Option("--results", help="Results folder [TENSLORADIST_RESULTS, ./results].")
    ] = None,
) -> None:
    """Write and print the isorank and isoparameter tables of a sweep, finished or still running.

    The learning rate is chosen for each method on validation scores; test scores of the chosen one are shown.

    Examples:

        tensloradist report demo --out report

        tensloradist report my_sweep.yaml --results /scratch/results --out tables

        tensloradist report my_sweep.bundle.tar.gz --out tables
    """
    from rich.console import Console

    from analysis.analyse import analyse
    from analysis.load import load_from
    from analysis.render import HEAD, markdown, rich_table, tidy_csv
    from tensloradist.results.layout import results_root, write_replacing

    analysis = analyse(load_from(sweeps, results_root(results)))
    blocks, warnings, name = analysis.blocks, analysis.warnings, analysis.name
    write_replacing(out / "tables.md", markdown(name, blocks, warnings))
    write_replacing(out / "tables.csv", tidy_csv(blocks))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for block in blocks:
        console.print(rich_table(block))
        for note in block.notes:
            console.print(f"  {note}", markup=False, highlight=False)
    console.print(HEAD, highlight=False)
    for warning in warnings:
        console.print(warning, markup=False, highlight=False)
    console.print(f"Written: {out / 'tables.md'}, {out / 'tables.csv'}", highlight=False)


def register(app: typer.Typer) -> None:
    """Add this package's commands to the application."""
    app.command()(report)

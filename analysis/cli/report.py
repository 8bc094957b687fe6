"""The command `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tensloradist.options import AFTER, MarginOption, ResultsOption, SweepsArgument, add


def report(
    sweeps: SweepsArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the report or the figures; file for tables or results [print them]."),
    ] = None,
    only: Annotated[str | None, typer.Option("--only", help="One part: tables, figures or results.")] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Of tables: terminal, markdown, latex, csv or json [terminal]; of results: csv, parquet or json [csv]",
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            help="Only these figures (repeatable): parameters, pairs, differences, curves, rank, learning_rate, "
            "ranking or cost.",
        ),
    ] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Of results: only print what each column is.")] = False,
    results: ResultsOption = None,
    margin: MarginOption = None,
) -> None:
    """Write a report: one page, with tables and figures.

    The sweeps may be finished or still running. DIR/report.html is a self-contained page; beside it are tables.md,
    .tex, .csv and .json, and figures/ as SVG and PNG. The learning rate of each method is chosen on validation scores,
    and test scores of the chosen one are shown.

    With --only, one part: the tables, printed or as a file; the figures; or the results, a row for each run and
    condition with a dictionary of the columns (in the JSON, in the Parquet file's metadata, or beside a CSV file as
    FILE.columns.csv).

    \b
    Examples:
        tensloradist report demo --out report
        tensloradist report my_sweep.yaml other_sweep --results /scratch/results --out report
        tensloradist report my_sweep.bundle.tar.gz --out report
        tensloradist report demo --only tables
        tensloradist report my_sweep --only tables --format latex --out tables.tex
        tensloradist report my_sweep --only figures --kind differences --kind curves --out figures
        tensloradist report demo other_sweep --only results --format parquet --out runs.parquet
    """
    from analysis.cli.parts import write

    write(sweeps, results, only, out=out, form=form, kinds=kind, columns=columns, margin=margin)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    add(app, AFTER, report)

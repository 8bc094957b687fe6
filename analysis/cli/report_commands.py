"""The commands `report`, `table` and `figures`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from analysis.cli.options import Margin, Results, Sweeps, analysis_of

TABLE_FORMATS = ("terminal", "markdown", "latex", "csv", "json")


def report(
    sweeps: Sweeps,
    out: Annotated[Path, typer.Option("--out", help="Folder for the page, the tables and the figures.")],
    results: Results = None,
    margin: Margin = 0.5,
) -> None:
    """Write the report of one or more sweeps, finished or still running: a page, tables and figures.

    DIR/report.html is a self-contained page; beside it are tables.md, .tex, .csv and .json, and figures/ as SVG and
    PNG. The learning rate is chosen for each method on validation scores, and test scores of the chosen one are shown.

    Examples:

        tensloradist report demo --out report

        tensloradist report my_sweep.yaml other_sweep --results /scratch/results --out report

        tensloradist report my_sweep.bundle.tar.gz --out report
    """
    from analysis.progress import progress
    from analysis.render.terminal import console, show
    from analysis.report.opening import opening
    from analysis.report.write import write_report

    analysis = analysis_of(sweeps, results, margin)
    with progress("Drawing the figures") as step:
        path = write_report(analysis, out, step)
    to = console()
    show(analysis, to)
    to.print()
    for sentence in opening(analysis):
        to.print(sentence, markup=False, highlight=False)
    to.print(f"Written: {path}, with the tables and figures beside it", markup=False, highlight=False, soft_wrap=True)


def table(
    sweeps: Sweeps,
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(TABLE_FORMATS)}.")] = "terminal",
    out: Annotated[Path | None, typer.Option("--out", help="A file to write instead of printing.")] = None,
    results: Results = None,
    margin: Margin = 0.5,
) -> None:
    """Print the tables of one or more sweeps, or write them to a file.

    Examples:

        tensloradist table demo

        tensloradist table my_sweep.yaml --format latex --out tables.tex

        tensloradist table my_sweep --format json | jq '.blocks[0].cells[0]'
    """
    from analysis.render.export import tidy_csv, to_json
    from analysis.render.latex import latex
    from analysis.render.markdown import markdown
    from analysis.render.terminal import console, show
    from tensloradist.errors import UserError, unknown
    from tensloradist.files import write_replacing

    renders = {"markdown": markdown, "latex": latex, "csv": tidy_csv, "json": to_json}
    if form not in TABLE_FORMATS:
        raise unknown("format", form, TABLE_FORMATS)
    if form == "terminal" and out is not None:
        raise UserError("--out needs a --format: markdown, latex, csv or json")
    analysis = analysis_of(sweeps, results, margin)
    if form in ("csv", "latex"):  # the other formats contain them
        for line in analysis.loaded.warnings:
            typer.echo(line, err=True)
    if form == "terminal":
        show(analysis, console())
    elif out is None:
        typer.echo(renders[form](analysis), nl=False)
    else:
        write_replacing(out, renders[form](analysis))
        typer.echo(f"Written: {out}")


def figures(
    sweeps: Sweeps,
    out: Annotated[Path, typer.Option("--out", help="Folder for the figures.")],
    kinds: Annotated[list[str] | None, typer.Option("--kind", help="Only this kind (repeatable).")] = None,
    results: Results = None,
    margin: Margin = 0.5,
) -> None:
    """Draw the figures of one or more sweeps, each as SVG and PNG.

    Kinds: parameters, pairs, differences, curves, rank, learning_rate, ranking, cost.

    Examples:

        tensloradist figures demo --out figures

        tensloradist figures my_sweep.yaml --kind differences --kind curves --out figures
    """
    from analysis.figures.drawing import KINDS
    from analysis.progress import progress
    from analysis.report.write import write_figures
    from tensloradist.errors import unknown

    for kind in kinds or ():
        if kind not in KINDS:
            raise unknown("kind of figure", kind, KINDS)
    analysis = analysis_of(sweeps, results, margin)
    with progress("Drawing the figures") as step:
        drawn, absent = write_figures(analysis, out, kinds=kinds, progress=step)
    for sentence in [*analysis.loaded.warnings, *absent, *([] if drawn else ["There is nothing to draw yet."])]:
        typer.echo(sentence)
    typer.echo(f"Written: {len(drawn)} figures in {out}, each as SVG and PNG")


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (report, table, figures):
        app.command()(command)

"""The commands `results`, `compare`, `explain` and `reproduce`: the numbers behind the tables."""

from __future__ import annotations

import json as json_
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.cli.options import Margin, Results, SweepOption, Sweeps, analysis_of, loaded_from

if TYPE_CHECKING:
    from analysis.explanation import Explanation
    from analysis.model import Analysis

CellArgument = Annotated[str, typer.Argument(metavar="CELL", help="'method, task, condition', as in the tables.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def results(
    sweeps: Sweeps,
    form: Annotated[str, typer.Option("--format", help="csv, parquet or json.")] = "csv",
    out: Annotated[Path | None, typer.Option("--out", help="File to write [standard output, but for parquet].")] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Only print the column dictionary.")] = False,
    results: Results = None,
) -> None:
    """Export all runs of sweeps with a row for each run and condition, and a dictionary of the columns.

    The dictionary is in the JSON, in the Parquet file's metadata, and beside a CSV file as FILE.columns.csv.

    Examples:

        tensloradist results demo > runs.csv

        tensloradist results demo other_sweep --format parquet --out runs.parquet

        tensloradist results demo --columns
    """
    from analysis.load.exporting import FORMATS, dictionary, export, exported
    from tensloradist.errors import UserError, unknown

    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if columns:
        for name, column in dictionary().items():
            unit = f" [{column['unit']}]" if column["unit"] else ""
            typer.echo(f"{name}: {column['type']}{unit}, {column['meaning']}")
        return
    if form == "parquet" and out is None:
        raise UserError("--format parquet: give a file with --out")
    loaded = loaded_from(sweeps, results)
    for line in (*loaded.warnings, *loaded.left_out()):
        typer.echo(line, err=True)
    if out is None:
        typer.echo(exported(loaded.frame, form), nl=False)
        return
    for path in export(loaded.frame, form, out):
        typer.echo(f"Written: {path}", err=True)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A method, or the id of a run (or its beginning).")],
    second: Annotated[str | None, typer.Argument(metavar="B", help="As A; not with --between.")] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="CONDITION CONDITION", help="Compare method A under these two conditions."),
    ] = None,
    sweep: SweepOption = None,
    results: Results = None,
    margin: Margin = 0.5,
    json: Json = False,
) -> None:
    """Compare two methods over seeds in every cell, one method between two conditions, or two runs.

    Methods: A − B paired by seed, with the sign-flip test. One method --between two conditions: the first − the second,
    paired by seed, on every backbone and task. Runs: McNemar's test and a bootstrap of examples, from the stored
    predictions; this is about these two trained models, not about the methods.

    Examples:

        tensloradist compare qkv_depth lora --sweep demo

        tensloradist compare qkv_depth --between isorank isoparameter --sweep demo

        tensloradist compare 3fa1 07bc
    """
    from tensloradist.errors import UserError
    from tensloradist.results.layout import results_root

    if between is not None:
        if second is not None:
            raise UserError(f"--between compares one method between two conditions: leave out {second!r} or --between")
        _compare_conditions(first, between, _analysis(sweep, results, margin), json)
        return
    if second is None:
        raise UserError(
            f"nothing to compare {first!r} with: give a second method or run, or --between CONDITION CONDITION"
        )
    root = results_root(results)
    if not sweep and all(_is_run(name, root) for name in (first, second)):
        _compare_runs(root, first, second, json)
        return
    from analysis.address import parse_name
    from analysis.comparison import compare_methods

    analysis = _analysis(sweep, results, margin)
    names = [parse_name(name, "method", _rows(analysis)) for name in (first, second)]
    if names[0] == names[1]:
        raise UserError(f"{first!r} and {second!r} are the same method, {names[0]}")
    found = compare_methods(analysis, names[0], names[1])
    if json:
        _json({"first": names[0], "second": names[1], "cells": [asdict(one) for one in found]})
        return
    from analysis.cli.showing import show_comparisons

    show_comparisons(names[0], names[1], found)


def explain(cell: CellArgument, sweep: SweepOption = None, results: Results = None, json: Json = False) -> None:
    """Explain how a number of the tables was obtained: the chosen setting, runs, specification, attempts, hardware.

    Examples:

        tensloradist explain "qkv_depth, digits, isorank 4" --sweep demo

        tensloradist explain "lora, dtd, isoparameter 4, deit_tiny" --json
    """
    from analysis.address import parse
    from analysis.explanation import explain as explanation_of

    analysis = _analysis(sweep, results)
    found = explanation_of(analysis, parse(cell, analysis.addresses()))
    if json:
        _json(_explained(found))
        return
    from analysis.cli.showing import show_explanation

    show_explanation(found)


def reproduce(
    cell: CellArgument,
    seed: Annotated[int | None, typer.Option(help="Which seed [the first with a score].")] = None,
    sweep: SweepOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to train in [RESULTS/reproductions].")] = None,
    results: Results = None,
) -> None:
    """Train one seed of a cell again in a folder of its own, and compare its score with the published one.

    Exit code 0: the same score, or one inside the cell's interval or the range of its seeds; 1: outside both.

    Examples:

        tensloradist reproduce "qkv_depth, digits, isorank 4" --sweep demo

        tensloradist reproduce "lora, digits, isorank 4" --seed 2 --sweep demo.bundle.tar.gz --out again
    """
    from analysis.address import parse
    from analysis.cli.showing import show_reproduction
    from analysis.reproduction import reproduce as run_again

    analysis = _analysis(sweep, results)
    address = parse(cell, analysis.addresses())
    found = run_again(analysis, address, seed, out, lambda line: typer.echo(line, err=True))
    show_reproduction(address, found)
    if not found.holds:
        raise typer.Exit(1)


def _compare_conditions(method: str, between: tuple[str, str], analysis: Analysis, json: bool) -> None:
    from analysis.address import parse_name
    from analysis.comparison import compare_conditions
    from tensloradist.errors import UserError

    row = parse_name(method, "method", _rows(analysis))
    conditions = list(dict.fromkeys(block.condition.name for block in analysis.blocks))
    first, second = (parse_name(name, "condition", conditions) for name in between)
    if first == second:
        raise UserError(
            f"--between {between[0]!r} {between[1]!r}: both are {first!r}; known conditions: {', '.join(conditions)}"
        )
    found = compare_conditions(analysis, row, first, second)
    if json:
        _json({"method": row, "first": first, "second": second, "cells": [asdict(one) for one in found]})
        return
    from analysis.cli.showing import show_comparisons

    show_comparisons(first, second, found, row)


def _rows(analysis: Analysis) -> list[str]:
    return list(dict.fromkeys(row.name for block in analysis.blocks for row in block.rows))


def _compare_runs(root: Path, first: str, second: str, json: bool) -> None:
    from analysis.progress import progress
    from analysis.run_comparison import compare_runs

    with progress("Resampling examples"):
        found = compare_runs(root, first, second)
    if json:
        _json(asdict(found))
        return
    from analysis.cli.showing import show_runs

    show_runs(found)


def _is_run(name: str, root: Path) -> bool:
    """Whether a name can only be that of a run: it is hexadecimal and the beginning of an id."""
    hexadecimal = len(name) >= 2 and set(name) <= set("0123456789abcdef")
    return hexadecimal and any(root.glob(f"runs/{name}*"))


def _analysis(sweep: list[str] | None, results: Path | None, margin: float = 0.5) -> Analysis:
    """The analysis; warnings about what was read go to standard error, since no table shows them here."""
    found = analysis_of(sweep, results, margin)
    for line in found.loaded.warnings:
        typer.echo(line, err=True)
    return found


def _json(data: Any) -> None:
    typer.echo(json_.dumps(data, indent=1, default=str))


def _explained(found: Explanation) -> dict[str, Any]:
    """An explanation as plain values; of its table only what concerns the cell."""
    plain = {name: getattr(found, name) for name in ("spec", "reproduce")}
    plain |= {"address": asdict(found.address), "cell": asdict(found.cell), "runs": [asdict(run) for run in found.runs]}
    plain["cell"]["interval"] = (plain["cell"].pop("estimate") or {}).get("interval")
    return {**plain, "block": {"notes": found.block.notes, "no_times": found.block.no_times}}


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (results, compare, explain, reproduce):
        app.command()(command)

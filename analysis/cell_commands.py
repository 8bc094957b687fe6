"""The commands `results`, `compare`, `explain` and `reproduce`: the numbers behind a table, one by one."""

from __future__ import annotations

import json as json_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from analysis.analyse import Analysis
    from analysis.load import Loaded

Results = Annotated[Path | None, typer.Option("--results", help="Results folder [TENSLORADIST_RESULTS, ./results].")]
SweepOption = Annotated[
    list[str] | None,
    typer.Option("--sweep", help="A sweep file, launched sweep or bundle (repeat) [the only one launched]."),
]
CellArgument = Annotated[str, typer.Argument(metavar="CELL", help="'method, task, condition', as in the tables.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def results(
    sweeps: Annotated[list[str], typer.Argument(metavar="SWEEP...", help="Sweep files, launched sweeps, or bundles.")],
    form: Annotated[str, typer.Option("--format", help="csv, parquet or json.")] = "csv",
    out: Annotated[Path | None, typer.Option("--out", help="A file [standard output; not for parquet].")] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Print the column dictionary and nothing else.")] = False,
    results: Results = None,
) -> None:
    """Export all runs of sweeps, a row for each run and condition, with a dictionary of the columns.

    The dictionary is in the JSON, in the Parquet file's metadata, and beside a CSV file as FILE.columns.csv.

    Examples:

        tensloradist results demo > runs.csv

        tensloradist results demo other_sweep --format parquet --out runs.parquet

        tensloradist results demo --columns
    """
    from analysis.exporting import FORMATS, dictionary, export, exported
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
    loaded = _loaded(sweeps, results)
    for line in (*loaded.warnings, *(f"Left out: {line}" for line in loaded.broken)):
        typer.echo(line, err=True)
    if out is None:
        typer.echo(exported(loaded.frame, form), nl=False)
        return
    for path in export(loaded.frame, form, out):
        typer.echo(f"written: {path}", err=True)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A method, or a run's id or the beginning of it.")],
    second: Annotated[str | None, typer.Argument(metavar="B", help="As A; none with --between.")] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="CONDITION CONDITION", help="Compare method A under these two conditions."),
    ] = None,
    sweep: SweepOption = None,
    results: Results = None,
    margin: Annotated[float, typer.Option(min=0.0, help="Half the region of practical equivalence, in points.")] = 0.5,
    json: Json = False,
) -> None:
    """Compare two methods over seeds, in every cell; or one method between two conditions; or two runs.

    Methods: A − B paired by seed, with the sign-flip test. One method --between two conditions: the first − the second,
    paired by seed, on every backbone and task. Runs: McNemar's test and a bootstrap of examples, from the stored
    predictions; this speaks of these two trained models, not of the methods.

    Examples:

        tensloradist compare qkv_depth lora --sweep demo

        tensloradist compare qkv_depth --between isorank isoparameter --sweep demo

        tensloradist compare 3fa1 07bc
    """
    from tensloradist.errors import UserError
    from tensloradist.results.layout import results_root

    if between is not None:
        if second is not None:
            raise UserError(f"--between compares one method between two conditions: leave {second!r} or --between out")
        _compare_conditions(first, between, _analysis(sweep, results, margin), json)
        return
    if second is None:
        raise UserError(
            f"{first!r} is compared with nothing: give a second method or run, or --between CONDITION CONDITION"
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
        _json({"first": names[0], "second": names[1], "cells": [_plain(one) for one in found]})
        return
    from analysis.showing import show_comparisons

    show_comparisons(names[0], names[1], found)


def explain(cell: CellArgument, sweep: SweepOption = None, results: Results = None, json: Json = False) -> None:
    """Say how a number of the tables came to be: what was chosen, its runs, specification, attempts, hardware.

    Examples:

        tensloradist explain "qkv_depth, digits, isorank 4" --sweep demo

        tensloradist explain "lora, dtd, isoparameter 4, deit_tiny" --json
    """
    from analysis.address import parse
    from analysis.cells import addresses, story

    analysis = _analysis(sweep, results)
    found = story(analysis, parse(cell, addresses(analysis)))
    if json:
        _json({**_plain(found), "block": {"notes": found.block.notes, "no_times": found.block.no_times}})
        return
    from analysis.showing import show_story

    show_story(found)


def reproduce(
    cell: CellArgument,
    seed: Annotated[int | None, typer.Option(help="Which seed [the first with a score].")] = None,
    sweep: SweepOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to train in [RESULTS/reproductions].")] = None,
    results: Results = None,
) -> None:
    """Train one seed of a cell again, in a folder of its own, and say whether its score is the same.

    Exit code 0: the same score, or inside the cell's interval or the range of its seeds; 1: outside of both.

    Examples:

        tensloradist reproduce "qkv_depth, digits, isorank 4" --sweep demo

        tensloradist reproduce "lora, digits, isorank 4" --seed 2 --sweep demo.bundle.tar.gz --out again
    """
    from analysis.address import parse
    from analysis.cells import addresses
    from analysis.reproduction import reproduce as run_again
    from analysis.showing import show_reproduction

    analysis = _analysis(sweep, results)
    address = parse(cell, addresses(analysis))
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
            f"--between {between[0]!r} {between[1]!r}: both are {first!r}; the conditions are {', '.join(conditions)}"
        )
    found = compare_conditions(analysis, row, first, second)
    if json:
        _json({"method": row, "first": first, "second": second, "cells": [_plain(one) for one in found]})
        return
    from analysis.showing import show_comparisons

    show_comparisons(first, second, found, row)


def _rows(analysis: Analysis) -> list[str]:
    return list(dict.fromkeys(row.name for block in analysis.blocks for row in block.rows))


def _compare_runs(root: Path, first: str, second: str, json: bool) -> None:
    from analysis.progress import progress
    from analysis.run_comparison import compare_runs

    with progress("Resampling examples"):
        found = compare_runs(root, first, second)
    if json:
        _json(_plain(found))
        return
    from analysis.showing import show_runs

    show_runs(found)


def _is_run(name: str, root: Path) -> bool:
    """Whether a text can only mean a run: hexadecimal, and the beginning of one's id."""
    hexadecimal = len(name) >= 2 and set(name) <= set("0123456789abcdef")
    return hexadecimal and any(root.glob(f"runs/{name}*"))


def _loaded(sweeps: list[str], results: Path | None) -> Loaded:
    from analysis.progress import progress

    with progress("Reading results"):
        from analysis.load import load_from
        from tensloradist.results.layout import results_root

        return load_from(sweeps, results_root(results))


def _analysis(sweeps: list[str] | None, results: Path | None, margin: float = 0.5) -> Analysis:
    """The analysis of the sweeps that are given, or of the only one that a results folder has."""
    from analysis.progress import progress
    from tensloradist.errors import UserError
    from tensloradist.results.layout import results_root

    root = results_root(results)
    launched = sorted(path.parent.name for path in root.glob("sweeps/*/latest"))
    if not sweeps and len(launched) != 1:
        raise UserError(f"--sweep is needed: {root} has {', '.join(launched) or 'no launched sweep'}")
    with progress("Reading results and computing"):
        from analysis.analyse import analyse
        from analysis.load import load_from

        loaded = load_from(sweeps or launched, root)
        found = analyse(loaded, margin / 100)
    for line in loaded.warnings:
        typer.echo(line, err=True)
    return found


def _json(data: Any) -> None:
    typer.echo(json_.dumps(data, indent=1, default=str))


def _plain(found: Any) -> dict[str, Any]:
    """A dataclass as plain values, without the whole table that a cell's story refers to."""
    from dataclasses import asdict, fields, is_dataclass

    plain: dict[str, Any] = {}
    for field in fields(found):
        value = getattr(found, field.name)
        if field.name in ("block", "row"):
            continue
        if is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        elif isinstance(value, tuple):
            value = [asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in value]
        plain[field.name] = value
    return plain


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (results, compare, explain, reproduce):
        app.command()(command)

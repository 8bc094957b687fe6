"""The commands `compare`, `explain` and `reproduce`: the numbers behind the tables, and the runs behind these."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from tensloradist.errors import UserError
from tensloradist.options import AFTER, CellArgument, JsonOption, MarginOption, ResultsOption, SweepOption, add


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A method, or the id of a run (or its beginning).")],
    second: Annotated[str | None, typer.Argument(metavar="B", help="As A; not with --between.")] = None,
    between: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="CONDITION CONDITION", help="Compare method A under these two conditions."),
    ] = None,
    sweep: SweepOption = None,
    results: ResultsOption = None,
    margin: MarginOption = None,
    json: JsonOption = False,
) -> None:
    """Compare two methods, two conditions or two runs.

    Two methods: A − B in every cell, paired by seed, with the sign-flip test. One method --between two conditions: the
    first − the second, paired by seed, on every backbone and task. Two runs: McNemar's test and a bootstrap of
    examples, from the stored predictions; this is about these two trained models, not about the methods.

    \b
    Examples:
        tensloradist compare qkv_depth lora --sweep demo
        tensloradist compare qkv_depth --between isorank isoparameter --sweep demo
        tensloradist compare 3fa1 07bc
    """
    from analysis.cli.numbers import compare as compared

    compared(first, second, between, sweep, results, margin, json)


def explain(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="A cell, 'method, task, condition', or a run's id (or its beginning).")
    ],
    other: Annotated[str | None, typer.Argument(metavar="RUN", help="Another run to compare it with.")] = None,
    log: Annotated[bool, typer.Option("--log", help="Of a run: its attempts, and the log of one of them.")] = False,
    attempt: Annotated[int | None, typer.Option(help="With --log: which attempt [the last].")] = None,
    sweep: SweepOption = None,
    results: ResultsOption = None,
    json: JsonOption = False,
) -> None:
    """Explain a cell of the tables, or a run.

    A cell: the chosen setting, its runs and their attempts, specification and hardware. A run: why it is new (what
    differs from the nearest run with a result), or whether its result is stale (code and versions since). Two runs:
    what differs between them. Letters 0-9 and a-f without --sweep are a run's id.

    \b
    Examples:
        tensloradist explain "qkv_depth, digits, isorank 4" --sweep demo
        tensloradist explain "lora, dtd, isoparameter 4, deit_tiny" --json
        tensloradist explain 3fa1
        tensloradist explain 3fa1 07bc
        tensloradist explain 3fa1 --log --attempt 1
    """
    is_run = log or other is not None or (not sweep and re.fullmatch("[0-9a-f]+", what) is not None)
    _refuse_mixture(is_run, log, {"RUN": other, "--attempt": attempt, "--sweep": sweep, "--json": json or None})
    if is_run:
        _explain_run(what, other, log, attempt, results, json)
        return
    from analysis.cli.numbers import explain as explained

    explained(what, sweep, results, json)


def _refuse_mixture(is_run: bool, log: bool, given: dict[str, object]) -> None:
    """Raises UserError for options that do not go together."""
    if given["--attempt"] is not None and not log:
        raise UserError("--attempt: only with --log")
    if log and (given["RUN"] is not None or given["--json"] is not None):
        raise UserError("--log: of one run, and not as JSON; leave out the second run or --json")
    if is_run and given["--sweep"] is not None:
        raise UserError("--sweep: only for a cell; a run is found by its id")


def _explain_run(run: str, other: str | None, log: bool, attempt: int | None, results: Path | None, json: bool) -> None:
    from launch.monitor.run_view import show_difference, show_log, show_run

    if log:
        show_log(run, results, attempt)
    elif other is not None:
        show_difference(run, other, results, json)
    else:
        show_run(run, results, json)


def reproduce(
    cell: CellArgument,
    seed: Annotated[int | None, typer.Option(help="Which seed [the first with a score].")] = None,
    sweep: SweepOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to train in [RESULTS/reproductions].")] = None,
    results: ResultsOption = None,
) -> None:
    """Train one seed of a cell again, and compare its score.

    It is trained in a folder of its own; the original is not touched. Exit code 0: the same score, or one inside the
    cell's interval or the range of its seeds; 1: outside both.

    \b
    Examples:
        tensloradist reproduce "qkv_depth, digits, isorank 4" --sweep demo
        tensloradist reproduce "lora, digits, isorank 4" --seed 2 --sweep demo.bundle.tar.gz --out again
    """
    from analysis.cli.numbers import reproduce as trained_again

    if not trained_again(cell, seed, sweep, out, results):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    add(app, AFTER, compare, explain, reproduce)

"""What `compare`, `explain` and `reproduce` do with the numbers of sweeps: read, compute, print."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.address import parse, parse_name
from analysis.cli.reading import analysis_of
from analysis.cli.showing import show_comparisons, show_explanation, show_reproduction, show_runs
from analysis.comparison import compare_conditions, compare_methods
from analysis.explanation import Explanation
from analysis.explanation import explain as explanation_of
from analysis.model import Analysis
from analysis.progress import progress
from analysis.reproduction import reproduce as reproduced
from analysis.run_comparison import compare_runs
from tensloradist.errors import UserError
from tensloradist.results.layout import results_root
from tensloradist.terminal import say, say_json


def compare(
    first: str,
    second: str | None,
    between: tuple[str, str] | None,
    sweeps: list[str] | None,
    results: Path | None,
    margin: float | None,
    json: bool,
) -> None:
    """Print how two methods, one method between two conditions, or two runs compare.

    Raises:
        UserError: names that are unknown, ambiguous or the same, or a comparison without a second side.
    """
    if between is not None:
        if second is not None:
            raise UserError(f"--between compares one method between two conditions: leave out {second!r} or --between")
        _compare_conditions(first, between, _analysis(sweeps, results, margin), json)
    elif second is None:
        raise UserError(
            f"nothing to compare {first!r} with: give a second method or run, or --between CONDITION CONDITION"
        )
    elif not sweeps and all(_is_run(name, results_root(results)) for name in (first, second)):
        with progress("Resampling examples"):
            found = compare_runs(results_root(results), first, second)
        say_json(asdict(found)) if json else show_runs(found)
    else:
        _compare_methods(first, second, _analysis(sweeps, results, margin), json)


def _compare_methods(first: str, second: str, analysis: Analysis, json: bool) -> None:
    one, other = (parse_name(name, "method", _rows(analysis)) for name in (first, second))
    if one == other:
        raise UserError(f"{first!r} and {second!r} are the same method, {one}")
    found = compare_methods(analysis, one, other)
    if json:
        say_json({"first": one, "second": other, "cells": [asdict(cell) for cell in found]})
    else:
        show_comparisons(one, other, found)


def _compare_conditions(method: str, between: tuple[str, str], analysis: Analysis, json: bool) -> None:
    row = parse_name(method, "method", _rows(analysis))
    conditions = list(dict.fromkeys(block.condition.name for block in analysis.blocks))
    first, second = (parse_name(name, "condition", conditions) for name in between)
    if first == second:
        raise UserError(
            f"--between {between[0]!r} {between[1]!r}: both are {first!r}; known conditions: {', '.join(conditions)}"
        )
    found = compare_conditions(analysis, row, first, second)
    if json:
        say_json({"method": row, "first": first, "second": second, "cells": [asdict(cell) for cell in found]})
    else:
        show_comparisons(first, second, found, row)


def explain(cell: str, sweeps: list[str] | None, results: Path | None, json: bool) -> None:
    """Print how the number in a cell was obtained.

    Raises:
        UserError: no cell, or several, that the text names.
    """
    analysis = _analysis(sweeps, results)
    found = explanation_of(analysis, parse(cell, analysis.addresses()))
    if json:
        say_json(_plain(found))
    else:
        show_explanation(found)


def _plain(found: Explanation) -> dict[str, Any]:
    """An explanation as plain values; of its table only what concerns the cell."""
    plain = {name: getattr(found, name) for name in ("spec", "reproduce")}
    plain |= {"address": asdict(found.address), "cell": asdict(found.cell), "runs": [asdict(run) for run in found.runs]}
    plain["cell"]["interval"] = (plain["cell"].pop("estimate") or {}).get("interval")
    return {**plain, "block": {"notes": found.block.notes, "no_times": found.block.no_times}}


def reproduce(cell: str, seed: int | None, sweeps: list[str] | None, out: Path | None, results: Path | None) -> bool:
    """Train one seed of a cell again, and print how the scores compare; whether the new one is close enough.

    Raises:
        UserError: no such cell or seed, or a run that cannot be trained here.
    """
    analysis = _analysis(sweeps, results)
    address = parse(cell, analysis.addresses())
    found = reproduced(analysis, address, seed, out, lambda line: say(line, stderr=True))
    show_reproduction(address, found)
    return found.holds


def _rows(analysis: Analysis) -> list[str]:
    return list(dict.fromkeys(row.name for block in analysis.blocks for row in block.rows))


def _is_run(name: str, root: Path) -> bool:
    """Whether a name can only be that of a run: it is hexadecimal and the beginning of an id."""
    hexadecimal = len(name) >= 2 and set(name) <= set("0123456789abcdef")
    return hexadecimal and any(root.glob(f"runs/{name}*"))


def _analysis(sweeps: list[str] | None, results: Path | None, margin: float | None = None) -> Analysis:
    """The analysis; warnings about what was read go to standard error, since no table shows them here."""
    found = analysis_of(sweeps, results, margin)
    say(*found.loaded.warnings, stderr=True)
    return found

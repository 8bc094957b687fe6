"""Tables for programs at full precision, in the metric's unit: CSV with a line per cell, JSON with everything."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from analysis.model import Analysis, Block, Cell, Estimate, Overall, Paired, Row

JSON_VERSION = 1


class OfRow(NamedTuple):
    """A column of every line."""

    meaning: str
    read: Callable[[Block, Row, str], Any]


class OfCell(NamedTuple):
    """A column of the lines with a cell, that is, of rows that are not refused."""

    meaning: str
    read: Callable[[Cell], Any]


class OfDifference(NamedTuple):
    """A column of the lines whose cell has a paired difference."""

    meaning: str
    read: Callable[[Paired], Any]


COLUMNS: dict[str, OfRow | OfCell | OfDifference] = {
    "backbone": OfRow("label of the backbone", lambda block, row, task: block.backbone),
    "condition": OfRow("isorank r=… or isoparameter r=…", lambda block, row, task: block.condition.name),
    "method": OfRow("row of the tables", lambda block, row, task: row.name),
    "task": OfRow("label of the task", lambda block, row, task: task),
    "metric": OfRow("name of the score's metric", lambda block, row, task: block.metrics[task]),
    "mean": OfCell("mean test score over seeds, a fraction", lambda cell: cell.mean),
    "low_95": OfCell("its 95 % interval's lower end", lambda cell: cell.estimate and cell.estimate.low),
    "high_95": OfCell("its 95 % interval's upper end", lambda cell: cell.estimate and cell.estimate.high),
    "interval": OfCell(
        "the interval's method: t or BCa",
        lambda cell: cell.estimate.interval.method if cell.estimate and cell.estimate.interval else None,
    ),
    "seeds": OfCell("seeds with a score", lambda cell: len(cell.scores)),
    "planned_seeds": OfCell("seeds planned", lambda cell: cell.planned),
    "not_finished": OfCell(
        "the other runs, by state",
        lambda cell: "; ".join(f"{number} {state}" for state, number in sorted(cell.other.items()) if number),
    ),
    "adapter_parameters": OfRow("of the adapter alone, without the head", lambda block, row, task: row.parameters),
    "residual": OfRow("adapter_parameters / budget - 1", lambda block, row, task: row.residual),
    "ranks": OfRow("rank of each mode", lambda block, row, task: row.ranks),
    "beyond_budget": OfRow("whether the residual is beyond the tolerance", lambda block, row, task: row.beyond_budget),
    "refused": OfRow("why an isorank row is refused", lambda block, row, task: row.refused),
    "difference_to_lora": OfDifference("mean paired difference, a fraction", lambda paired: paired.effect),
    "difference_low_95": OfDifference("its 95 % t interval's lower end", lambda paired: paired.estimate.low),
    "difference_high_95": OfDifference("its 95 % t interval's upper end", lambda paired: paired.estimate.high),
    "paired_seeds": OfDifference("seeds that it is paired over", lambda paired: paired.n),
    "p_sign_flip": OfDifference("the sign-flip permutation test's p", lambda paired: paired.p),
    "p_holm": OfDifference("after Holm's correction over the rows of the column", lambda paired: paired.p_holm),
    "seeds_needed": OfDifference(
        "the seeds with which the corrected test can reach 5 %", lambda paired: paired.seeds_needed
    ),
    "equivalence_margin": OfDifference(
        "half the region of practical equivalence, a fraction", lambda paired: paired.equivalence.margin
    ),
    "equivalence_p": OfDifference("of two one-sided t tests", lambda paired: paired.equivalence.p_tost),
    "equivalence_probability": OfDifference(
        "posterior probability that the difference lies within the region",
        lambda paired: paired.equivalence.probability,
    ),
    "not_compared": OfCell("why there is no paired difference", lambda cell: cell.no_difference),
    "not_tested": OfDifference(
        "why a difference is of some seeds only and has no p: runs of other seeds diverged",
        lambda paired: paired.untested,
    ),
    "best": OfCell("whether it is bold", lambda cell: cell.best),
    "chosen": OfCell(
        "the setting chosen on validation scores", lambda cell: cell.choice.describe() if cell.choice else None
    ),
    "step_seconds": OfCell("median over seeds of the median training step", lambda cell: cell.step_seconds),
    "peak_bytes": OfCell("median over seeds of the peak memory", lambda cell: cell.peak_bytes),
}
MEANINGS = {name: column.meaning for name, column in COLUMNS.items()}


def tidy_csv(analysis: Analysis) -> str:
    """One line for each cell of the tables; a field is empty if its value is unknown or undefined.

    Names are not escaped, for the sake of programs: a spreadsheet may read a name that begins with = as a formula.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(line for block in analysis.blocks for line in _lines(block))
    return out.getvalue()


def to_json(analysis: Analysis) -> str:
    """Blocks, tables over tasks, warnings and the meaning of each cell's fields, as one JSON document."""
    document = {
        "version": JSON_VERSION,
        "name": analysis.name,
        "warnings": analysis.warnings,
        "columns": MEANINGS,
        "blocks": [_block(block) for block in analysis.blocks],
        "overall": [_overall(overall) for overall in analysis.overall],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _lines(block: Block) -> list[dict[str, Any]]:
    return [_line(block, row, task) for row in block.rows for task in block.tasks]


def _line(block: Block, row: Row, task: str) -> dict[str, Any]:
    line = {name: column.read(block, row, task) for name, column in COLUMNS.items() if isinstance(column, OfRow)}
    if (cell := row.cells.get(task)) is None:
        return line
    line |= {name: column.read(cell) for name, column in COLUMNS.items() if isinstance(column, OfCell)}
    if (paired := cell.difference) is not None:
        line |= {name: column.read(paired) for name, column in COLUMNS.items() if isinstance(column, OfDifference)}
    return line


def _block(block: Block) -> dict[str, Any]:
    scores = [
        {} if (cell := row.cells.get(task)) is None else {str(seed): value for seed, value in cell.scores.items()}
        for row in block.rows
        for task in block.tasks
    ]
    return {
        "backbone": block.backbone,
        "condition": block.condition.model_dump(mode="json"),
        "cells": [line | {"scores_by_seed": own} for line, own in zip(_lines(block), scores, strict=True)],
        "notes": block.notes,
    }


def _overall(overall: Overall) -> dict[str, Any]:
    rows = [
        {
            "method": row.name,
            "adapter_parameters": row.parameters,
            "normalised": row.normalised,
            "interquartile_mean": _estimate(row.iqm),
            "probability_of_improvement": _estimate(row.improvement),
            "mean_rank": row.mean_rank,
        }
        for row in overall.rows
    ]
    ranks = overall.ranks and {
        "data_sets": overall.ranks.blocks,
        "friedman_p": overall.ranks.friedman_p,
        "critical_difference": overall.ranks.critical_difference,
    }
    return {
        "backbone": overall.backbone,
        "condition": overall.condition.name,
        "tasks": list(overall.tasks),
        "rows": rows,
        "ranks": ranks,
        "notes": overall.notes,
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"value": estimate.value, "low_95": estimate.low, "high_95": estimate.high}

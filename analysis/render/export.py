"""Tables for programs: CSV with a line for each cell, JSON with everything; full precision, the metrics' own unit."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from analysis.analyse import Analysis
from analysis.overall import Overall
from analysis.statistics.intervals import Estimate, Interval
from analysis.statistics.paired import Paired
from analysis.tables import Block, Cell, Row

JSON_VERSION = 1


def tidy_csv(analysis: Analysis) -> str:
    """One line for each cell of the tables; an empty field is what is not known or not defined.

    Names stand as they were given, for programs: a spreadsheet may take one that begins with = for a formula.
    """
    out = io.StringIO()
    lines = [_line(block, row, task) for block in analysis.blocks for row in block.rows for task in block.tasks]
    writer = csv.DictWriter(out, fieldnames=list(CSV_COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


CSV_COLUMNS = {
    "backbone": "label of the backbone",
    "condition": "isorank r=… or isoparameter r=…",
    "method": "row of the tables",
    "task": "label of the task",
    "metric": "name of the score's metric",
    "mean": "mean test score over seeds, a fraction",
    "low_95": "its 95 % interval's lower end",
    "high_95": "its 95 % interval's upper end",
    "interval": "the interval's method: t or BCa",
    "seeds": "seeds with a score",
    "planned_seeds": "seeds planned",
    "not_finished": "the other runs, by state",
    "adapter_parameters": "of the adapter alone, without the head",
    "residual": "adapter_parameters / budget - 1",
    "ranks": "rank of each mode",
    "beyond_budget": "whether the residual is beyond the tolerance",
    "refused": "why an isorank row is refused",
    "difference_to_lora": "mean paired difference, a fraction",
    "difference_low_95": "its 95 % t interval's lower end",
    "difference_high_95": "its 95 % t interval's upper end",
    "paired_seeds": "seeds that it is paired over",
    "p_sign_flip": "the sign-flip permutation test's p",
    "p_holm": "after Holm's correction over the rows of the column",
    "seeds_needed": "the seeds with which the corrected test can reach 5 %",
    "equivalence_margin": "half the region of practical equivalence, a fraction",
    "equivalence_p": "of two one-sided t tests",
    "equivalence_probability": "posterior probability that the difference lies within the region",
    "not_compared": "why there is no paired difference",
    "not_tested": "why a difference is that of some seeds and has no p: on others runs diverged",
    "best": "whether it is bold",
    "chosen": "the setting chosen on validation scores",
    "step_seconds": "median over seeds of the median training step",
    "peak_bytes": "median over seeds of the peak memory",
}


def _line(block: Block, row: Row, task: str) -> dict[str, Any]:
    cell = row.cells.get(task)
    line = {
        "backbone": block.backbone,
        "condition": block.condition.name,
        "method": row.name,
        "task": task,
        "metric": block.metrics[task],
        "adapter_parameters": row.parameters,
        "residual": row.residual,
        "ranks": row.ranks,
        "beyond_budget": row.beyond_budget,
        "refused": row.refused,
    }
    if cell is None:
        return line
    line |= {
        "mean": cell.mean,
        **_ends(cell.interval, ""),
        "interval": cell.interval.method if cell.interval else None,
        "seeds": len(cell.scores),
        "planned_seeds": cell.planned,
        "not_finished": "; ".join(f"{number} {state}" for state, number in sorted(cell.other.items()) if number),
        "not_compared": cell.no_difference,
        "best": cell.best,
        "chosen": cell.choice.describe() if cell.choice else None,
        "step_seconds": cell.step_seconds,
        "peak_bytes": cell.peak_bytes,
    }
    return line | (_difference(cell.difference) if cell.difference else {})


def _ends(interval: Interval | None, prefix: str) -> dict[str, float | None]:
    return {
        f"{prefix}low_95": interval.low if interval else None,
        f"{prefix}high_95": interval.high if interval else None,
    }


def _difference(paired: Paired) -> dict[str, Any]:
    return {
        "difference_to_lora": paired.effect,
        **_ends(paired.interval, "difference_"),
        "paired_seeds": paired.n,
        "p_sign_flip": paired.p,
        "p_holm": paired.p_holm,
        "seeds_needed": paired.seeds_needed,
        "equivalence_margin": paired.equivalence.margin,
        "equivalence_p": paired.equivalence.p_tost,
        "equivalence_probability": paired.equivalence.probability,
        "not_tested": paired.untested,
    }


def to_json(analysis: Analysis) -> str:
    """Blocks, tables over tasks, warnings and the meaning of each cell's fields, as one JSON document."""
    document = {
        "version": JSON_VERSION,
        "name": analysis.name,
        "warnings": analysis.warnings,
        "columns": CSV_COLUMNS,
        "blocks": [_block(block) for block in analysis.blocks],
        "overall": [_overall(overall) for overall in analysis.overall],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _block(block: Block) -> dict[str, Any]:
    lines = [
        _line(block, row, task) | {"scores_by_seed": _scores(row.cells.get(task))}
        for row in block.rows
        for task in block.tasks
    ]
    return {
        "backbone": block.backbone,
        "condition": block.condition.model_dump(mode="json"),
        "cells": lines,
        "notes": block.notes,
    }


def _scores(cell: Cell | None) -> dict[str, float]:
    return {} if cell is None else {str(seed): value for seed, value in cell.scores.items()}


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
    ranks = overall.ranks
    return {
        "backbone": overall.backbone,
        "condition": overall.condition.name,
        "tasks": list(overall.tasks),
        "rows": rows,
        "ranks": None
        if ranks is None
        else {
            "data_sets": ranks.blocks,
            "friedman_p": ranks.friedman_p,
            "critical_difference": ranks.critical_difference,
        },
        "notes": overall.notes,
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else {"value": estimate.value, **_ends(estimate.interval, "")}

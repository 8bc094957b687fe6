"""Two methods compared in every cell, or one under two conditions, paired by seed; or two runs, example by example."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.analyse import Analysis
from analysis.pairing import Pairing, compared, pair
from analysis.statistics.intervals import Estimate
from analysis.statistics.paired import Paired
from analysis.statistics.predictions import Array, McNemar, bootstrap_difference, mcnemar
from analysis.tables import Block, Cell
from tensloradist.errors import UserError
from tensloradist.results.layout import RunFolder, find_run
from tensloradist.results.publish import read_published
from tensloradist.results.schema import Result

CLASSIFICATION = ("accuracy", "f1", "matthews")


@dataclass(frozen=True)
class Comparison:
    """The difference first − second in one cell; `why_not` says why there is none."""

    backbone: str
    condition: str | None  # None: it is between two conditions
    task: str
    metric: str
    means: tuple[float | None, float | None]
    difference: Paired | None
    why_not: str | None = None


def compare_methods(analysis: Analysis, first: str, second: str) -> list[Comparison]:
    """First − second wherever either is planned; Holm's p is over the cells compared."""
    found: dict[tuple[str, str, str], Comparison] = {}
    pairings: dict[tuple[str, str, str], Pairing] = {}
    for block in analysis.blocks:
        rows = {row.name: row for row in block.rows}
        if first not in rows and second not in rows:
            continue
        for task in block.tasks:
            one, two = (_planned(block, name, task) for name in (first, second))
            place = (block.backbone, block.condition.name, task)
            why = None
            if one is None or two is None:
                missing = [name for name, cell in ((first, one), (second, two)) if cell is None]
                why = f"{' and '.join(missing)} not planned here, or refused"
            else:
                pairings[place] = pair(one, two, analysis.runs, (first, second))
                why = pairings[place].why_not
            means = (None if one is None else one.mean, None if two is None else two.mean)
            found[place] = Comparison(*place, block.metrics[task], means, None, why)
    differences = compared(pairings, analysis.margin)
    return [replace(one, difference=differences.get(place)) for place, one in found.items()]


def compare_conditions(analysis: Analysis, method: str, first: str, second: str) -> list[Comparison]:
    """One method under the first condition − under the second, on every backbone and task; Holm's p is over these.

    Args:
        method, first, second: names of a row and of two conditions.
    """
    found: dict[tuple[str, str], Comparison] = {}
    pairings: dict[tuple[str, str], Pairing] = {}
    blocks = {(block.backbone, block.condition.name): block for block in analysis.blocks}
    for backbone in dict.fromkeys(block.backbone for block in analysis.blocks):
        both = [blocks.get((backbone, condition)) for condition in (first, second)]
        for task in dict.fromkeys(task for block in both if block for task in block.tasks):
            one, two = (_planned(block, method, task) for block in both)
            why = None
            if one is None or two is None:
                missing = [condition for condition, cell in ((first, one), (second, two)) if cell is None]
                why = f"not planned under {' and '.join(missing)}, or refused"
            elif one.run_ids == two.run_ids:
                why = "the runs of both conditions are the same"
            else:
                pairings[backbone, task] = pair(one, two, analysis.runs, (first, second))
                why = pairings[backbone, task].why_not
            means = (None if one is None else one.mean, None if two is None else two.mean)
            metric = next(block.metrics[task] for block in both if block and task in block.tasks)
            found[backbone, task] = Comparison(backbone, None, task, metric, means, None, why)
    differences = compared(pairings, analysis.margin)
    return [replace(one, difference=differences.get(place)) for place, one in found.items()]


def _planned(block: Block | None, method: str, task: str) -> Cell | None:
    """A method's cell, where runs are planned for it and its row is not refused."""
    row = None if block is None else next((row for row in block.rows if row.name == method), None)
    cell = None if row is None else row.cells.get(task)
    return cell if cell is not None and cell.planned else None


@dataclass(frozen=True)
class RunComparison:
    """Two runs on the same test examples: scores, first − second with its interval over examples, and McNemar's test.

    It speaks of these two trained models, not of the methods: seeds are not resampled.
    """

    run_ids: tuple[str, str]
    metric: str
    examples: int
    scores: tuple[float, float]
    difference: Estimate
    mcnemar: McNemar | None  # None for regression


def compare_runs(root: Path, first: str, second: str) -> RunComparison:
    """Two runs of a results folder by their ids, or the beginnings of them.

    Raises:
        UserError: no such run, no result or predictions, different test examples, or a metric of a plugin.
    """
    folders = [find_run(wanted, root) for wanted in (first, second)]
    results = [_result(folder) for folder in folders]
    metric = results[0].metrics.primary
    if results[1].metrics.primary != metric:
        raise UserError(f"the runs are scored by {metric} and {results[1].metrics.primary}: there is no difference")
    (one, labels, ids), (two, other_labels, other_ids) = (
        _predictions(folder, result) for folder, result in zip(folders, results, strict=True)
    )
    if ids != other_ids or not np.array_equal(labels, other_labels):
        raise UserError(f"runs {folders[0].run_id} and {folders[1].run_id} were tested on different examples")
    scored = _scorer(metric)
    right = [_right(metric, outputs, labels) for outputs in (one, two)]
    hits = None if right[0] is None or right[1] is None else mcnemar(right[0], right[1])
    return RunComparison(
        (folders[0].run_id, folders[1].run_id),
        metric,
        len(labels),
        (scored(one, labels), scored(two, labels)),
        bootstrap_difference(scored, one, two, labels),
        hits,
    )


def _result(folder: RunFolder) -> Result:
    result = read_published(folder)
    if result is None:
        raise UserError(f"run {folder.run_id} has no result yet")
    return result


def _predictions(folder: RunFolder, result: Result) -> tuple[Array, Array, list[str]]:
    """Logits, labels and ids of the test part."""
    from safetensors import SafetensorError, safe_open

    path = folder.attempt(result.attempt) / "predictions.safetensors"
    if not path.exists():
        raise UserError(
            f"{path}: no predictions are stored (the run is {result.state}), so there is nothing to compare"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            ids = json.loads(file.metadata()["ids"])["test"]
            return file.get_tensor("test.logits"), file.get_tensor("test.labels"), ids
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as predictions ({error})") from error


def _right(metric: str, outputs: Array, labels: Array) -> npt.NDArray[np.bool_] | None:
    """Which examples are right; None of a metric that is not made of right and wrong."""
    if metric in CLASSIFICATION:
        return np.asarray(outputs.argmax(-1) == labels)
    return np.asarray(outputs[:, 2], dtype=bool) if metric == "exact_match" else None


def _scorer(metric: str):  # type: ignore[no-untyped-def]  # (logits, labels) -> float
    from tensloradist.tasks.metrics import accuracy, accuracy_f1, answers, correlations, matthews

    known: dict[str, Callable[[Any, Any], dict[str, float]]] = {
        "accuracy": accuracy,
        "f1": accuracy_f1,
        "matthews": matthews,
        "spearman": correlations,
        "pearson": correlations,
        "exact_match": answers,
        "perplexity": answers,
    }
    if metric not in known:
        raise UserError(
            f"metric {metric!r} is a plugin's, which the analysis cannot compute; known: {', '.join(known)}"
        )
    return lambda logits, labels: known[metric](logits, labels)[metric]

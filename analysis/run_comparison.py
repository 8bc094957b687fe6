"""Two trained models compared on the same test examples, from their stored predictions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from analysis.statistics.intervals import Estimate
from analysis.statistics.predictions import Array, McNemar, bootstrap_difference, mcnemar
from tensloradist.errors import UserError
from tensloradist.metrics import METRICS, Metric
from tensloradist.plugins import load_plugins
from tensloradist.results.layout import RunFolder, find_run
from tensloradist.results.publish import read_published, read_spec
from tensloradist.results.schema import Result


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two runs on the same test examples: scores, first − second with its interval over examples, and McNemar's test.

    This is about these two trained models, not about the methods: seeds are not resampled.
    """

    run_ids: tuple[str, str]
    metric: str
    examples: int
    scores: tuple[float, float]
    difference: Estimate
    mcnemar: McNemar | None  # None for a metric that does not count right answers


def compare_runs(root: Path, first: str, second: str) -> RunComparison:
    """Two runs of a results folder, each given by its id or the beginning of it.

    Raises:
        UserError: no such run, no result or predictions, different test examples, or a metric that is not registered.
    """
    folders = [find_run(wanted, root) for wanted in (first, second)]
    results = [_result(folder) for folder in folders]
    metric = results[0].metrics.primary
    if results[1].metrics.primary != metric:
        raise UserError(f"the runs have different metrics, {metric} and {results[1].metrics.primary}")
    (one, labels, ids), (two, other_labels, other_ids) = (
        _predictions(folder, result) for folder, result in zip(folders, results, strict=True)
    )
    if ids != other_ids or not np.array_equal(labels, other_labels):
        raise UserError(f"runs {folders[0].run_id} and {folders[1].run_id} were tested on different examples")
    known = _registered(metric, folders[0])
    return RunComparison(
        run_ids=(folders[0].run_id, folders[1].run_id),
        metric=metric,
        examples=len(labels),
        scores=(known.compute(one, labels), known.compute(two, labels)),
        difference=bootstrap_difference(known.compute, one, two, labels),
        mcnemar=None if known.correct is None else mcnemar(known.correct(one, labels), known.correct(two, labels)),
    )


def _registered(name: str, run: RunFolder) -> Metric:
    """The metric's entry in the registry; the run's plugins are imported if it is not there."""
    if name not in METRICS and (spec := read_spec(run.spec)) is not None:
        load_plugins(spec.plugins)
    if name not in METRICS:
        raise UserError(
            f"metric {name!r} is not registered, so it cannot be computed on resampled examples: add it to "
            f"tensloradist.metrics.METRICS in its plugin; known: {', '.join(METRICS)}"
        )
    return METRICS[name]


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

"""Two methods compared in every cell that both have, paired by seed; or two single runs, example by example."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from analysis.analyse import Analysis
from analysis.columns import FINGERPRINTS
from analysis.statistics.intervals import Estimate
from analysis.statistics.paired import Paired, paired_many
from analysis.statistics.permutation import holm
from analysis.statistics.power import seeds_needed
from analysis.statistics.predictions import Array, McNemar, bootstrap_difference, mcnemar
from tensloradist.errors import UserError
from tensloradist.results.layout import RunFolder
from tensloradist.results.publish import read_result
from tensloradist.results.schema import Result

CLASSIFICATION = ("accuracy", "f1", "matthews")


@dataclass(frozen=True)
class Comparison:
    """The difference first − second in one cell; `why_not` says why there is none."""

    backbone: str
    condition: str
    task: str
    metric: str
    means: tuple[float | None, float | None]
    difference: Paired | None
    why_not: str | None = None


def compare_methods(analysis: Analysis, first: str, second: str) -> list[Comparison]:
    """First − second wherever either is planned; Holm's p is over the cells compared."""
    found: list[Comparison] = []
    samples = []
    for block in analysis.blocks:
        rows = {row.name: row for row in block.rows}
        if first not in rows and second not in rows:
            continue
        for task in block.tasks:
            cells = [rows[name].cells.get(task) if name in rows else None for name in (first, second)]
            means = tuple(None if cell is None else cell.mean for cell in cells)
            one, two = cells
            why = None
            if one is None or two is None:
                missing = [name for name, cell in zip((first, second), cells, strict=True) if cell is None]
                why = f"{' and '.join(missing)} not planned here, or refused"
            else:
                common = sorted(one.scores.keys() & two.scores.keys())
                why = _mismatch(analysis, [(one.run_ids[seed], two.run_ids[seed]) for seed in common])
                if not common:
                    why = "no common seed has finished"
                elif why is None:
                    samples.append(np.array([one.scores[seed] - two.scores[seed] for seed in common]))
            place = (block.backbone, block.condition.name, task, block.metrics[task])
            found.append(Comparison(*place, (means[0], means[1]), None, why))
    differences = paired_many(samples, analysis.margin)
    need = seeds_needed(len(differences)) if differences else None
    ps = holm([difference.p for difference in differences])
    corrected = iter([replace(d, p_holm=p, seeds_needed=need) for d, p in zip(differences, ps, strict=True)])
    return [c if c.why_not else replace(c, difference=next(corrected)) for c in found]


def _mismatch(analysis: Analysis, pairs: list[tuple[str, str]]) -> str | None:
    names = [f"fingerprint_{name}" for name in FINGERPRINTS]
    different = {n for a, b in pairs for n in names if analysis.runs[a][n] != analysis.runs[b][n]}
    shown = ", ".join(sorted(name.removeprefix("fingerprint_") for name in different))
    return f"the runs differ in {shown}, so they are not paired" if different else None


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
    folders = [find_run(root, wanted) for wanted in (first, second)]
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
    hits = None
    if metric in CLASSIFICATION:
        hits = mcnemar(one.argmax(-1) == labels, two.argmax(-1) == labels)
    return RunComparison(
        (folders[0].run_id, folders[1].run_id),
        metric,
        len(labels),
        (scored(one, labels), scored(two, labels)),
        bootstrap_difference(scored, one, two, labels),
        hits,
    )


def find_run(root: Path, wanted: str) -> RunFolder:
    """The one run of a results folder whose id begins so.

    Raises:
        UserError: none, or several.
    """
    found = sorted(path.name for path in (root / "runs").glob(f"{wanted}*") if path.is_dir()) if wanted else []
    if wanted in found or len(found) == 1:
        return RunFolder(root, wanted if wanted in found else found[0])
    if not found:
        raise UserError(f"run {wanted!r}: none in {root / 'runs'} has an id that begins so")
    raise UserError(f"run {wanted!r}: {len(found)} ids begin so ({', '.join(found[:4])}, …); give more of it")


def _result(folder: RunFolder) -> Result:
    if not folder.result.exists():
        raise UserError(f"run {folder.run_id} has no result yet")
    return read_result(folder.result)


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
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as predictions ({error})") from error


def _scorer(metric: str):  # type: ignore[no-untyped-def]  # (logits, labels) -> float
    from tensloradist.tasks.metrics import accuracy, accuracy_f1, correlations, matthews

    known = {"accuracy": accuracy, "f1": accuracy_f1, "matthews": matthews}
    known |= {"spearman": correlations, "pearson": correlations}
    if metric not in known:
        raise UserError(
            f"metric {metric!r} is a plugin's, which the analysis cannot compute; known: {', '.join(known)}"
        )
    return lambda logits, labels: known[metric](logits, labels)[metric]

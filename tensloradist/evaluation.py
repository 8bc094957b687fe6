"""Evaluating a finished run again: on its own test part, or on other data of the same task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tensloradist import backbones, tasks
from tensloradist.adapter import load
from tensloradist.backbones.quantization import check_kernels
from tensloradist.errors import UserError
from tensloradist.plugins import load_plugins
from tensloradist.recheck import require_same_labels
from tensloradist.results.publish import trained_attempt
from tensloradist.terminal import say, say_json
from tensloradist.training.accelerator import in_precision, make_accelerator, only_the_spec, release
from tensloradist.training.prediction import EvaluationPasses, predict
from tensloradist.training.records import defined
from tensloradist.wording import scored

_ALONE: dict[str, Any] = {
    "processes": 1,
    "nodes": None,
    "processes_per_node": None,
    "strategy": "single",
    "offload": "none",
    "deepspeed_config": None,
    "log_with": (),
}
"""Fields of `compute` for one process, whatever the run was trained with."""


@only_the_spec(1)
def evaluate_run(run_folder: Path, data: str | None = None) -> dict[str, Any]:
    """Metrics of a finished run's adapter.

    Args:
        run_folder: `results/runs/<run_id>`.
        data: a folder or file in the form that the run's task reads; all of its examples are used, but for those that
            the run's protocol leaves out of training. None: the run's own test part, which gives the published scores
            again.

    Returns:
        {'run_id', 'data', 'examples', 'evaluation_batch', 'metrics': {name: value or None}}; `evaluation_batch` is
        smaller than the run's where the device's memory made it so.

    Raises:
        UserError: no finished result there, a backbone that has changed, or data with other classes.
    """
    spec, result, attempt = trained_attempt(run_folder)
    load_plugins(spec.plugins)
    task_spec = spec.task
    if data is not None:
        task_spec = task_spec.model_copy(update={"data": data, "fingerprint": None, "train_examples": None})
    task = tasks.load(task_spec, spec.backbone, spec.protocol)
    if data is not None:
        _refuse_other_classes(task, tasks.load(spec.task, spec.backbone, spec.protocol), data)
    else:
        require_same_labels(run_folder, result, task)
    model = backbones.load(spec.backbone, task.num_labels)
    load(model, attempt)
    in_precision(model, spec.precision)
    alone = spec.compute.model_copy(update=_ALONE)
    accelerator = make_accelerator(spec.model_copy(update={"compute": alone}), run_folder)
    try:
        model = accelerator.prepare(model)
        if spec.backbone.quantization is not None:
            check_kernels(model, spec.backbone.quantization, spec.precision)
        family = backbones.family_of(accelerator.unwrap_model(model))
        # The parts of an official split may be one and the same: each example counts once.
        whole = [task.test] if data is None else [task.train, task.validation, task.test]
        parts = {tuple(part.ids): part for part in whole}
        passes = EvaluationPasses.of(alone)
        logits = np.concatenate([predict(accelerator, model, family, part, passes) for part in parts.values()])
        labels = np.concatenate([part.labels for part in parts.values()])
    finally:
        release(accelerator)
    return {
        "run_id": result.run_id,
        "data": data or "the run's own test part",
        "examples": len(labels),
        "evaluation_batch": passes.size,
        "metrics": defined(task.metrics(logits, labels)),
    }


def _refuse_other_classes(task: tasks.LoadedTask, trained: tasks.LoadedTask, data: str) -> None:
    """Raises UserError unless the labels of the data mean what those of the run's own data do."""
    if task.num_labels != trained.num_labels:
        raise UserError(f"data: {data} has {task.num_labels} classes, the run was trained on {trained.num_labels}")
    nameless = tuple(str(number) for number in range(trained.num_labels))  # data that holds no names for its labels
    if nameless not in (task.classes, trained.classes) and task.classes != trained.classes:
        number, (ours, theirs) = next(
            (i, pair) for i, pair in enumerate(zip(task.classes, trained.classes, strict=True)) if len(set(pair)) > 1
        )
        raise UserError(
            f"data: {data}: class {number} is {ours!r}, but was {theirs!r} where the run was trained; folders of "
            "classes must have the same names"
        )


def show(found: dict[str, Any], json: bool = False) -> None:
    """Print what `evaluate_run` returned."""
    if json:
        say_json(found)
        return
    say(f"run {found['run_id']} on {found['data']}, {found['examples']} examples:")
    say(*(f"  {scored(name, value)}" for name, value in found["metrics"].items()))

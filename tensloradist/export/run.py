"""Exporting a finished run from its results folder, with what a user of the exported model needs beside the weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tensloradist import backbones, tasks
from tensloradist.adapter import load
from tensloradist.adapter.adapter_files import read_tensors
from tensloradist.backbones.task_head import head_parameters
from tensloradist.errors import UserError, unknown
from tensloradist.new_folder import refuse_existing
from tensloradist.plugins import load_plugins
from tensloradist.results.layout import CLASSES
from tensloradist.results.publish import trained_attempt

if TYPE_CHECKING:
    from tensloradist.spec import BackboneSpec, RunSpec

FORMS = ("peft", "merged")
_BESIDE = (
    "preprocessor_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "tokenizer*",
    "vocab.*",
    "*.model",
    "chat_template*",
)


def export_run(run_folder: Path, form: str, target: Path) -> list[str]:
    """Write the trained adapter and head of a finished run as a LoRA of PEFT, or merged into a plain checkpoint.

    The data of the task is not needed, the backbone is. A merged checkpoint has the names of the run's classes; PEFT's
    format has no place for them.

    Args:
        run_folder: `results/runs/<run_id>`.
        form: peft or merged.
        target: the folder to make; an empty one may be there.

    Returns:
        Notes for the user, one line each.

    Raises:
        UserError: the folder has no finished result (a diverged run has no adapter worth exporting) or has broken
            files, the backbone has changed, or the target is not empty. Nothing is written then.
    """
    if form not in FORMS:
        raise unknown("form of export", form, FORMS)
    refuse_existing(target)
    spec, _, attempt = trained_attempt(run_folder)
    load_plugins(spec.plugins)
    labels = _labels(spec.backbone, attempt / "head.safetensors")
    model = backbones.load(spec.backbone, labels)
    adapter = load(model, attempt)
    if form == "peft":
        adapter.export_peft(target, base_model=spec.backbone.name, revision=spec.backbone.revision)
        return []
    names, notes = _names(spec, attempt, labels)
    adapter.export_merged(target, classes=names, beside=preprocessing_files(spec.backbone))
    return notes


def _names(spec: RunSpec, attempt: Path, labels: int) -> tuple[tuple[str, ...], list[str]]:
    """The names of the run's classes, and notes for the user.

    For a run from before they were recorded, its data is asked, if it is still available. Unknown names become
    transformers' LABEL_0, …, never those of the classifier that the backbone was pretrained with.
    """
    if labels < 2:  # a language model, or a regression
        return (), []
    recorded = attempt / CLASSES
    if recorded.exists():
        names = _read_names(recorded)
    else:
        names, reason = _names_of_data(spec)
        if reason:
            return _numbered(labels), [f"{reason}, so the classes are called LABEL_0 to LABEL_{labels - 1}"]
    if len(names) != labels:
        raise UserError(f"{attempt}: {len(names)} names of classes for a head of {labels} outputs")
    return names, []


def _numbered(labels: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{number}" for number in range(labels))


def _read_names(path: Path) -> tuple[str, ...]:
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected a list of names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: expected a list of names")
    return tuple(names)


def _names_of_data(spec: RunSpec) -> tuple[tuple[str, ...], str]:
    """(names of the classes, why there are none) from the run's own data."""
    task = tasks.task_named(spec.task.name)
    if task.missing(spec.task):
        return (), "the run has not recorded the names of its classes, and its data is not here"
    try:
        classes = tasks.load(spec.task, spec.backbone, spec.protocol).classes
    except UserError as error:
        return (), f"the run has not recorded the names of its classes, and its data does not give them ({error})"
    return classes, "" if classes else f"task {spec.task.name} has no names for its classes"


def _labels(spec: BackboneSpec, head: Path) -> int:
    """Outputs of the trained head: rows of its last layer. A language model has no head."""
    tensors = read_tensors(head)
    if not tensors:
        return backbones.LANGUAGE_MODEL
    model = backbones.empty(spec, 2)
    of_head = head_parameters(model, backbones.family_of(model).head(model))
    last = [name for name, parameter in of_head.items() if parameter.ndim > 1][-1]
    if last not in tensors:
        raise UserError(f"{head}: has no {last}, so it is not this backbone's classification head")
    return int(tensors[last].shape[0])


def preprocessing_files(spec: BackboneSpec) -> list[Path]:
    """The files that make a model's folder usable, beside its configuration and weights."""
    if spec.source != "transformers":
        return []
    from tensloradist.backbones.transformers_ import weights_folder

    return sorted(path for pattern in _BESIDE for path in weights_folder(spec).glob(pattern))

"""Exporting a finished run from its results folder, with what a user of the exported model needs beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tensloradist import backbones
from tensloradist.adapter import load
from tensloradist.adapter.checkpoint import read_tensors
from tensloradist.backbones.task_head import head_parameters
from tensloradist.errors import UserError, unknown
from tensloradist.export.folder import refuse_existing
from tensloradist.export.merged import export_merged
from tensloradist.export.peft import export_peft
from tensloradist.plugins import load_plugins
from tensloradist.results.publish import read_run

if TYPE_CHECKING:
    from tensloradist.spec import BackboneSpec

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


def export_run(run_folder: Path, form: str, target: Path) -> None:
    """Write the trained adapter and head of a finished run as a LoRA of PEFT, or merged into a plain checkpoint.

    The data of the task is not needed, the backbone is.

    Args:
        run_folder: `results/runs/<run_id>`.
        form: peft or merged.
        target: the folder to make.

    Raises:
        UserError: no finished result there (a diverged run has no adapter worth passing on), broken or foreign files
            in it, a backbone that has changed, or a target that exists. Nothing is written then.
    """
    if form not in FORMS:
        raise unknown("form of export", form, FORMS)
    refuse_existing(target)
    spec, result = read_run(run_folder)
    if result.state != "finished":
        raise UserError(f"{run_folder}: the run is {result.state}; only a finished run can be exported")
    load_plugins(spec.plugins)
    attempt = run_folder / "attempts" / f"{result.attempt:04d}"
    model = backbones.load(spec.backbone, _labels(spec.backbone, attempt / "head.safetensors"))
    adapter = load(model, attempt)
    if form == "peft":
        export_peft(adapter, target, base_model=spec.backbone.name, revision=spec.backbone.revision)
    else:
        export_merged(adapter, target, beside=_preprocessing(spec.backbone))


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


def _preprocessing(spec: BackboneSpec) -> list[Path]:
    """The files that make a model's folder usable, beside its configuration and weights."""
    if spec.source != "transformers":
        return []
    from tensloradist.backbones.transformers_ import weights_folder

    return sorted(path for pattern in _BESIDE for path in weights_folder(spec).glob(pattern))

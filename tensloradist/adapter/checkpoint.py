"""Saving and loading an adapter and its head: adapter.json, adapter.safetensors, head.safetensors. Never a pickle.

Where method `full` trained the backbone, its weights are in backbone.safetensors.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import nn

from tensloradist.backbones import family_of
from tensloradist.backbones.task_head import head_parameters
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.fingerprint import TensorHash
from tensloradist.modes import AttentionShape
from tensloradist.records import read_object
from tensloradist.spec import AdapterSpec
from tensloradist.validation import SpecModel, validate

if TYPE_CHECKING:
    from tensloradist.adapter.core import Adapter

FORMAT_VERSION = 1
Part = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Path]
"""(tensors of a model, what they are to become, the file that it comes from)"""


class Description(SpecModel):
    """adapter.json: the adapter's specification, the shape that it is for, and what it was trained on.

    Attributes:
        backbone: the hash of the frozen weights under it; None where it was saved alone, or method full trained them.
        head: what stayed trainable beside it, where that is not the head that the model's family has.
    """

    format_version: Literal[1]
    adapter: AdapterSpec
    shape: dict[str, Any]
    seed: int
    backbone: str | None = None
    head: tuple[str, ...] | None = None

    @property
    def has_head(self) -> bool:
        """Whether it was saved attached to a model, and so with its head."""
        return self.backbone is not None or self.adapter.method == "full"


def save(adapter: Adapter, folder: Path, backbone: str | None = None) -> None:
    """Write the adapter, and the head of the model that it is attached to. Existing files are replaced, each whole.

    Args:
        backbone: the `backbone_hash` of the weights that it was trained on, where that is known already.

    Raises:
        UserError: the adapter is merged, so that the weights under it are not those that it was trained on.
        OSError: the folder cannot be made or written, or the disk is full.
    """
    if adapter.attachment is not None and adapter.attachment.is_merged:
        raise UserError("The adapter is merged: the backbone's weights are not its own; unmerge before you save")
    folder.mkdir(parents=True, exist_ok=True)
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "adapter": adapter.spec.model_dump(mode="json"),
        "shape": {field: getattr(adapter.shape, field) for field in AttentionShape.__dataclass_fields__},
        "seed": adapter.seed,
    }
    _write_tensors(folder / "adapter.safetensors", adapter.state_dict())
    if adapter.attachment is not None:
        trained = adapter.attachment.trained_backbone()
        if trained:
            _write_tensors(folder / "backbone.safetensors", dict(trained))
        else:
            description["backbone"] = backbone or backbone_hash(adapter)
        _write_tensors(folder / "head.safetensors", adapter.attachment.head_state())
        if adapter.attachment.has_other_head:
            description["head"] = adapter.attachment.head_paths
    write_replacing(folder / "adapter.json", json.dumps(description, indent=2) + "\n")


def load(model: nn.Module, folder: str | Path) -> Adapter:
    """Attach the adapter saved in `folder` to `model`, with its head.

    Args:
        folder: that `Adapter.save` wrote, an attempt's folder, or a finished run's, `results/runs/<run_id>`: then the
            adapter is that of its published attempt.

    Raises:
        UserError: a missing or broken file, tensors that are missing, extra or of another shape, or a backbone whose
            frozen weights are not those that the adapter was trained on. The model is left as it was then.
    """
    from tensloradist.adapter.attachment import attach

    folder = _folder_of_adapter(Path(folder))
    description = _read_description(folder / "adapter.json")
    tensors = read_tensors(folder / "adapter.safetensors")
    paths = family_of(model).head(model) if description.head is None else description.head
    adapter = attach(model, description.adapter, description.seed, paths)
    try:
        found = {field: getattr(adapter.shape, field) for field in AttentionShape.__dataclass_fields__}
        found["projections"] = list(found["projections"])
        if found != description.shape:
            raise UserError(f"{folder}: the adapter is for {description.shape}, the model has {found}")
        # A run in bf16 was trained on the rounding of the weights to it: both belong to the same backbone.
        same = description.backbone is None or any(
            backbone_hash(adapter, rounded_to) == description.backbone for rounded_to in (None, torch.bfloat16)
        )
        if not same:
            raise UserError(
                f"{folder}: the adapter was trained on other backbone weights than this model's (their "
                "hashes differ); load the backbone it was trained on"
            )
        parts: list[Part] = [(adapter.state_dict(), tensors, folder / "adapter.safetensors")]
        attachment = adapter._attached()
        if description.adapter.method == "full":
            backbone = folder / "backbone.safetensors"
            parts.append((dict(attachment.trained_backbone()), read_tensors(backbone), backbone))
        if description.has_head:
            head = folder / "head.safetensors"
            parts.append((attachment.head_state(), read_tensors(head), head))
        copy_into(*parts)
    except BaseException:
        adapter.detach()
        raise
    return adapter


def _folder_of_adapter(folder: Path) -> Path:
    """The folder itself, or the published attempt's below a run's folder."""
    if os.path.exists(folder / "adapter.json") or not os.path.isdir(folder / "attempts"):  # unreadable: said below
        return folder
    from tensloradist.results.publish import trained_attempt

    return trained_attempt(folder)[2]


def backbone_hash(adapter: Adapter, rounded_to: torch.dtype | None = None) -> str:
    """A hash of the backbone under an attached adapter: of all its weights but the adapter's and the head's.

    Args:
        rounded_to: hash them as they would be in this precision; quantised ones stay as they are.
    """
    found = TensorHash()
    for name, p in sorted(backbone_parameters(adapter).items()):  # one rounded copy at a time
        found.add(name, p.to(rounded_to) if rounded_to is not None and p.is_floating_point() else p)
    return found.digits()


def frozen_parameters(adapter: Adapter) -> dict[str, torch.nn.Parameter]:
    """The backbone's parameters that training leaves alone, by their names in it as it was loaded: none by `full`."""
    return {name: p for name, p in backbone_parameters(adapter).items() if not p.requires_grad}


def backbone_parameters(adapter: Adapter) -> dict[str, torch.nn.Parameter]:
    """The weights of the backbone under an attached adapter, by their names in it as it was loaded."""
    attachment = adapter._attached()
    names = {id(p) for p in (*adapter.parameters(), *head_parameters(attachment.model, attachment.head_paths).values())}
    return {name.replace(".base.", "."): p for name, p in attachment.model.named_parameters() if id(p) not in names}


def _read_description(path: Path) -> Description:
    data = read_object(path, "the adapter's description", FORMAT_VERSION, "format_version")
    if data is None:
        raise UserError(f"{path}: there is no such file; expected a folder that Adapter.save wrote")
    return validate(Description, data, str(path))


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file. Raises UserError if it is missing or is none."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from error


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    # Not by safetensors' save_file: it writes files that only their owner can read, whatever the umask.
    write_replacing(path, serialized({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))


@torch.no_grad()
def copy_into(*parts: Part) -> None:
    """Copy the values of all parts, or none: UserError, naming the file, if names or shapes are not the same."""
    for part in parts:
        _refuse_another_form(*part)
    for target, source, _ in parts:
        for name, value in target.items():
            value.copy_(source[name])


def _refuse_another_form(target: dict[str, torch.Tensor], source: dict[str, torch.Tensor], path: Path) -> None:
    missing, extra = sorted(target.keys() - source.keys()), sorted(source.keys() - target.keys())
    if missing or extra:
        raise UserError(f"{path}: missing tensors {missing[:5]}, extra tensors {extra[:5]}")
    for name, value in target.items():
        if value.shape != source[name].shape:
            raise UserError(f"{path}: {name} has shape {list(source[name].shape)}, expected {list(value.shape)}")

"""The files of an adapter and its head: adapter.json, adapter.safetensors, head.safetensors. Never a pickle.

If method `full` trained the backbone, its weights are in backbone.safetensors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized

from tensloradist.adapter.attachment import Attachment
from tensloradist.adapter.core import AdapterTensors
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.modes import AttentionShape
from tensloradist.records import read_object
from tensloradist.spec import AdapterSpec
from tensloradist.validation import SpecModel, validate

FORMAT_VERSION = 1
Part = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Path]
"""(tensors of a model, their new values, the file with these values)"""


class Description(SpecModel):
    """adapter.json: the adapter's specification, the shape that it is for, and what it was trained on.

    Attributes:
        backbone: the hash of the frozen weights; None if the adapter was saved alone, or method full trained them.
        head: the modules that were trained with it, if they are not the family's head.
    """

    format_version: Literal[1]
    adapter: AdapterSpec
    shape: dict[str, Any]
    seed: int
    backbone: str | None = None
    head: tuple[str, ...] | None = None

    @property
    def has_head(self) -> bool:
        """Whether it was saved while attached to a model, and so with a head."""
        return self.backbone is not None or self.adapter.method == "full"


def write(adapter: AdapterTensors, attachment: Attachment | None, folder: Path, backbone: str | None = None) -> None:
    """Write the adapter, and the head of the model that it is attached to. Existing files are replaced, each whole.

    Args:
        backbone: the hash of the weights that it was trained on, if it is known already.

    Raises:
        UserError: the adapter is merged, so that the weights under it are not those that it was trained on.
        OSError: the folder cannot be made or written, or the disk is full.
    """
    if attachment is not None and attachment.is_merged:
        raise UserError("The adapter is merged: the backbone's weights are not its own; unmerge before you save")
    folder.mkdir(parents=True, exist_ok=True)
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "adapter": adapter.spec.model_dump(mode="json"),
        "shape": {field: getattr(adapter.shape, field) for field in AttentionShape.__dataclass_fields__},
        "seed": adapter.seed,
    }
    _write_tensors(folder / "adapter.safetensors", adapter.state_dict())
    if attachment is not None:
        trained = attachment.trained_backbone()
        if trained:
            _write_tensors(folder / "backbone.safetensors", dict(trained))
        else:
            description["backbone"] = backbone or attachment.backbone_hash()
        _write_tensors(folder / "head.safetensors", attachment.head_state())
        if attachment.has_other_head:
            description["head"] = attachment.head_paths
    write_replacing(folder / "adapter.json", json.dumps(description, indent=2) + "\n")


def read_description(path: Path) -> Description:
    """adapter.json. Raises UserError if it is missing, broken or of a newer version."""
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

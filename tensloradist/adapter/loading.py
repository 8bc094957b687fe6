"""Loading a saved adapter, with its head, onto a model."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from tensloradist.adapter.adapter import Adapter
from tensloradist.adapter.adapter_files import Part, copy_into, read_description, read_tensors
from tensloradist.adapter.attaching import attach
from tensloradist.backbones import family_of
from tensloradist.errors import UserError
from tensloradist.modes import AttentionShape
from tensloradist.results.publish import trained_attempt


def load(model: nn.Module, folder: str | Path) -> Adapter:
    """Attach the adapter saved in `folder` to `model`, with its head.

    Args:
        folder: that `Adapter.save` wrote, an attempt's folder, or a finished run's, `results/runs/<run_id>`: then the
            adapter is that of its published attempt.

    Raises:
        UserError: a missing or broken file, tensors that are missing, extra or of another shape, or a backbone whose
            frozen weights are not those that the adapter was trained on. The model is left as it was then.
    """
    folder = _folder_of_adapter(Path(folder))
    description = read_description(folder / "adapter.json")
    tensors = read_tensors(folder / "adapter.safetensors")
    paths = family_of(model).head(model) if description.head is None else description.head
    adapter = attach(model, description.adapter, description.seed, paths)
    attachment = adapter.require_attachment()
    try:
        found = {field: getattr(adapter.shape, field) for field in AttentionShape.__dataclass_fields__}
        found["projections"] = list(found["projections"])
        if found != description.shape:
            raise UserError(f"{folder}: the adapter is for {description.shape}, the model has {found}")
        # A run in bf16 was trained on the rounding of the weights to it: both belong to the same backbone.
        same = description.backbone is None or any(
            attachment.backbone_hash(rounded_to) == description.backbone for rounded_to in (None, torch.bfloat16)
        )
        if not same:
            raise UserError(
                f"{folder}: the adapter was trained on other backbone weights than this model's (their "
                "hashes differ); load the backbone it was trained on"
            )
        parts: list[Part] = [(adapter.state_dict(), tensors, folder / "adapter.safetensors")]
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
    if os.path.exists(folder / "adapter.json") or not os.path.isdir(folder / "attempts"):
        return folder  # one that cannot be read is refused when its files are
    return trained_attempt(folder)[2]

"""Saving and loading an adapter and its head: adapter.json, adapter.safetensors, head.safetensors. Never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import nn

from tensloradist.errors import UserError
from tensloradist.fingerprint import hash_tensors
from tensloradist.modes import AttentionShape
from tensloradist.results.layout import write_replacing
from tensloradist.spec import AdapterSpec

if TYPE_CHECKING:
    from tensloradist.adapter.core import Adapter

FORMAT_VERSION = 1


def save(adapter: Adapter, folder: Path, backbone: str | None = None) -> None:
    """Write the adapter, and the head of the model that it is attached to. Existing files are replaced, each whole.

    Args:
        backbone: the `backbone_hash`, where it is known already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "adapter": adapter.spec.model_dump(mode="json"),
        "shape": {field: getattr(adapter.shape, field) for field in AttentionShape.__dataclass_fields__},
        "seed": adapter.seed,
    }
    _write_tensors(folder / "adapter.safetensors", adapter.state_dict())
    if adapter.attachment is not None:
        description["backbone"] = backbone or backbone_hash(adapter)
        _write_tensors(folder / "head.safetensors", adapter.attachment.head_state())
    write_replacing(folder / "adapter.json", json.dumps(description, indent=2) + "\n")


def load(model: nn.Module, folder: str | Path) -> Adapter:
    """Attach the adapter saved in `folder` to `model`, with its head.

    Raises:
        UserError: a missing or broken file, tensors that are missing, extra or of another shape, or a backbone whose
            frozen weights are not those that the adapter was trained on. The model is left without an adapter then.
    """
    from tensloradist.adapter.attachment import attach

    folder = Path(folder)
    description = _read_description(folder / "adapter.json")
    spec = AdapterSpec.model_validate(description["adapter"])
    tensors = _read_tensors(folder / "adapter.safetensors")
    adapter = attach(model, spec, seed=description["seed"])
    try:
        found = {field: getattr(adapter.shape, field) for field in AttentionShape.__dataclass_fields__}
        found["projections"] = list(found["projections"])
        if found != description["shape"]:
            raise UserError(f"{folder}: the adapter is for {description['shape']}, the model has {found}")
        if description.get("backbone") not in (None, backbone_hash(adapter)):
            raise UserError(
                f"{folder}: the adapter was trained on other backbone weights than this model's (their "
                "hashes differ); load the backbone it was trained on"
            )
        _copy_into(adapter.state_dict(), tensors, folder / "adapter.safetensors")
        head = folder / "head.safetensors"
        if head.exists() and adapter.attachment is not None:
            _copy_into(adapter.attachment.head_state(), _read_tensors(head), head)
    except UserError:
        adapter.detach()
        raise
    return adapter


def backbone_hash(adapter: Adapter) -> str:
    """A hash of the frozen weights under an attached adapter: of everything but the adapter and the head."""
    return hash_tensors(frozen_parameters(adapter))


def frozen_parameters(adapter: Adapter) -> dict[str, torch.nn.Parameter]:
    """The backbone's own parameters under an attached adapter, by their names in the backbone as it was loaded."""
    attachment = adapter._attached()
    names = {id(p) for p in adapter.parameters()}
    for path in attachment.head_paths:
        names |= {id(p) for p in attachment.model.get_submodule(path).parameters()}
    return {name.replace(".base.", "."): p for name, p in attachment.model.named_parameters() if id(p) not in names}


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text())
        version = description["format_version"]
        if version != FORMAT_VERSION:
            raise UserError(f"{path}: format_version {version}; this version reads {FORMAT_VERSION}")
        AdapterSpec.model_validate(description["adapter"])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a folder that Adapter.save wrote") from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{path}: not an adapter description: {error}") from error
    return description


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file: {error}") from error


def _write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    # Not by safetensors' save_file: it writes files that only their owner can read, whatever the umask.
    write_replacing(path, serialized({name: value.detach().cpu().contiguous() for name, value in tensors.items()}))


@torch.no_grad()
def _copy_into(target: dict[str, torch.Tensor], source: dict[str, torch.Tensor], path: Path) -> None:
    missing, extra = sorted(target.keys() - source.keys()), sorted(source.keys() - target.keys())
    if missing or extra:
        raise UserError(f"{path}: missing tensors {missing[:5]}, extra tensors {extra[:5]}")
    for name, value in target.items():
        if value.shape != source[name].shape:
            raise UserError(f"{path}: {name} has shape {list(source[name].shape)}, expected {list(value.shape)}")
    for name, value in target.items():
        value.copy_(source[name])

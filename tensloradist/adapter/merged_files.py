"""A trained adapter merged into its backbone: a plain checkpoint, which transformers or timm loads like any other.

The merged weight is W0 + scale · (A B)ᵀ, summed in float64 and rounded once to the backbone's precision. The live
model does not change.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialized
from torch import Tensor, nn

from tensloradist.adapter.attachment import Attachment
from tensloradist.adapter.rounding import with_update
from tensloradist.backbones.quiet import quiet
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.new_folder import new_folder


def write(attachment: Attachment, folder: Path, classes: Sequence[str] = (), beside: Iterable[Path] = ()) -> None:
    """Write the model that the adapter is attached to as a plain checkpoint, update and classification head included.

    `from_pretrained(folder)` of transformers' auto classes, or `timm.create_model("local-dir:" + folder,
    pretrained=True)`, loads it.

    Args:
        folder: to make; an empty one may exist.
        classes: names of the labels 0, 1, …, for the configuration: `id2label` and `label2id` of transformers,
            `label_names` of timm [those that the model has].
        beside: files to copy into it, such as a tokenizer's.

    Raises:
        UserError: the folder is not empty, the model is from neither library, the backbone is quantised, its precision
            cannot hold the update, or the names are not as many as the labels.
    """
    attachment.refuse_quantized()
    model: Any = attachment.model
    write = _writer_for(model)
    _check_classes(model, classes)
    with new_folder(folder) as temporary:
        for path in beside:
            shutil.copyfile(path, temporary / path.name)
        write(model, merged_state(attachment), temporary, tuple(classes))


def _check_classes(model: Any, classes: Sequence[str]) -> None:
    labels = model.config.num_labels if hasattr(model, "config") else model.num_classes
    if classes and len(classes) != labels:
        raise UserError(f"classes: {len(classes)} names for a model with {labels} labels; give one name for each label")


def _writer_for(model: nn.Module) -> Callable[[Any, dict[str, Tensor], Path, tuple[str, ...]], None]:
    if hasattr(model, "save_pretrained"):
        return _write_transformers
    if getattr(model, "pretrained_cfg", None) is not None:
        return _write_timm
    raise UserError(
        f"{type(model).__name__} is neither a transformers model nor one that timm.create_model made, so there is "
        "no plain checkpoint to write; use adapter.merge() and save the model's weights yourself"
    )


@torch.no_grad()
def merged_state(attachment: Attachment) -> dict[str, Tensor]:
    """The state dict of the plain model, with the update in its weights. Raises UserError as `merge` does."""
    adapter = attachment.adapter
    prefix = f"{_name_in(attachment.model, adapter)}."
    plain = {}
    for name, value in attachment.model.state_dict().items():
        if not name.startswith(prefix):
            plain[_unwrapped(name, attachment.wrapped)] = value.detach()
    if not attachment.is_merged:
        pairs = adapter()
        for path, wrapped in attachment.wrapped.items():
            plain.update((name, merged) for name, _, merged in with_update(path, wrapped, pairs))
    return plain


def _name_in(model: nn.Module, adapter: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is adapter)


def _unwrapped(name: str, wrapped: dict[str, Any]) -> str:
    path, _, leaf = name.rpartition(".base.")
    return f"{path}.{leaf}" if path in wrapped else name


def _write_transformers(model: Any, state: dict[str, Tensor], folder: Path, classes: tuple[str, ...]) -> None:
    config = copy.deepcopy(model.config)
    if classes:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: label for label, name in enumerate(classes)}
    with torch.device("meta"):
        plain = type(model)(config)
    plain.to(next(iter(state.values())).dtype)
    plain.load_state_dict(state, assign=True)
    if getattr(model, "generation_config", None) is not None:
        plain.generation_config = model.generation_config
    with quiet():
        plain.save_pretrained(str(folder))


def _write_timm(model: Any, state: dict[str, Tensor], folder: Path, classes: tuple[str, ...]) -> None:
    from timm.models._hub import save_config_for_hf

    save_config_for_hf(model, str(folder / "config.json"), {"label_names": list(classes)} if classes else None)
    content = serialized({name: value.cpu().contiguous() for name, value in state.items()}, {"format": "pt"})
    write_replacing(folder / "model.safetensors", content)

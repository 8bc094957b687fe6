"""A LoRA checkpoint of PEFT read as the method `lora`: scales folded, unequal ranks padded with zeros, both exact.

Only a LoRA on attention projections and feed-forward layers is read. Other features of PEFT's LoRA (DoRA, trained
biases, other layers, replaced layers) change the model in ways that the method cannot repeat, so they are refused by
name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tensloradist.adapter import Adapter, attach
from tensloradist.adapter.adapter_files import copy_into, read_tensors
from tensloradist.adapter.peft_files import CONFIG, PREFIX, WEIGHTS
from tensloradist.backbones import Family, family_of
from tensloradist.backbones.task_head import head_of, is_under
from tensloradist.errors import UserError
from tensloradist.projections import PROJECTIONS
from tensloradist.spec import AdapterSpec

# Field of adapter_config.json -> the values with which the checkpoint is a plain LoRA.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "fan_in_fan_out": (False, None),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (None,),
    "kasa_config": (None,),
    "monteclora_config": (None,),
    # The others (pissa, olora, corda, loftq, …) change the backbone's own weights before training.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "mica"),
}


def from_peft(model: nn.Module, folder: str | Path) -> Adapter:
    """Attach a LoRA that PEFT trained (or that `export_peft` wrote) to the plain `model`, with its task head.

    alpha / r (alpha / √r with rsLoRA) becomes the spec's `scale`; layers of another scale (`alpha_pattern`) have the
    difference folded into their B; layers of a smaller rank (`rank_pattern`) and layers without a LoRA get columns of
    zeros. The head is what `attach` leaves trainable, and what PEFT's `modules_to_save` names beside it; one that the
    checkpoint lacks stays the model's.

    Args:
        model: of a registered family, with the weights that the LoRA was trained on: PEFT's format has no fingerprint.
        folder: with adapter_config.json and adapter_model.safetensors.

    Returns:
        The attached adapter, of method `lora`.

    Raises:
        UserError: unreadable files, a checkpoint that is not a plain LoRA, or tensors for other layers than
            this model's attention projections and feed-forward layers. The model is left without an adapter then.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    tensors = _without_prefix(read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    family = family_of(model)
    sites = [*family.sites(model), *family.ffn(model)]
    found = {site.path: lora for site in sites if (lora := _take(tensors, site.path, config, folder)) is not None}
    if not found:
        raise UserError(
            f"{folder}: no LoRA on this model's attention projections, such as {sites[0].path}; the checkpoint has "
            f"{_some(tensors)}"
        )
    paths = _head_paths(model, family, config, tensors)
    head = {name: tensors.pop(name) for name in list(tensors) if any(is_under(name, path) for path in paths)}
    if tensors:
        raise UserError(
            f"{folder}: has tensors for other layers than this model's projections and head, which the "
            f"method lora cannot hold: {_some(tensors)}"
        )
    adapted = {projection for site in sites if site.path in found for projection in site.projections}
    projections = tuple(projection for projection in PROJECTIONS if projection in adapted)
    # The usual scale goes into the spec, so that a checkpoint of one scale keeps its A and B bit for bit.
    scales = [scale for _, _, scale in found.values()]
    scale = max(set(scales), key=scales.count)
    rank = max(left.shape[0] for left, _, _ in found.values())
    dropout = float(config.get("lora_dropout") or 0.0)
    spec = AdapterSpec(method="lora", ranks=rank, scale=scale, projections=projections, dropout=dropout)
    adapter = attach(model, spec, head=paths)
    try:
        _fill(adapter, found, folder)
        if head:
            _drop_shared(model, adapter.require_attachment().head_state(), head, folder / WEIGHTS)
            copy_into((_of_saved_modules(adapter, head), head, folder / WEIGHTS))
    except BaseException:
        adapter.detach()
        raise
    return adapter


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a folder that PEFT saved") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        found = config.get("peft_type") if isinstance(config, dict) else None
        raise UserError(f"{path}: peft_type is {found!r}; only 'LORA' can be read as the method lora")
    for field, plain in _PLAIN.items():
        if field in config and config[field] not in plain:
            raise UserError(
                f"{path}: {field} is {config[field]!r}: this is not a plain LoRA, so the method cannot represent it; "
                "let PEFT merge it into the backbone instead"
            )
    for field in ("r", "lora_alpha"):
        if not isinstance(config.get(field), int | float) or config[field] <= 0:
            raise UserError(f"{path}: {field} is {config.get(field)!r}; it must be a positive number")
    return config


def _without_prefix(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    strange = [name for name in tensors if not name.startswith(PREFIX)]
    if strange:
        raise UserError(f"{path}: {_some(strange)}: not PEFT's layout, whose names begin with {PREFIX!r}")
    return {name.removeprefix(PREFIX): value for name, value in tensors.items()}


def _take(
    tensors: dict[str, Tensor], path: str, config: dict[str, Any], folder: Path
) -> tuple[Tensor, Tensor, float] | None:
    """(A of r × d_in, B of d_out × r, scale) of one layer, taken out of the tensors; None where it has no LoRA."""
    left, right = tensors.pop(f"{path}.lora_A.weight", None), tensors.pop(f"{path}.lora_B.weight", None)
    if left is None and right is None:
        return None
    if left is None or right is None:
        raise UserError(f"{folder / WEIGHTS}: {path} has only one of lora_A and lora_B")
    rank = _pattern(config.get("rank_pattern"), path, config["r"])
    alpha = _pattern(config.get("alpha_pattern"), path, config["lora_alpha"])
    if left.ndim != 2 or right.ndim != 2 or left.shape[0] != rank or right.shape[1] != rank:
        shapes = f"lora_A {list(left.shape)} and lora_B {list(right.shape)}"
        raise UserError(f"{folder / WEIGHTS}: {path} has {shapes}, but its rank is {rank} by {CONFIG}")
    return left, right, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _pattern(patterns: dict[str, Any] | None, path: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the layer's name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


@torch.no_grad()
def _fill(adapter: Adapter, found: dict[str, tuple[Tensor, Tensor, float]], folder: Path) -> None:
    for parameter in adapter.parameters():
        parameter.zero_()
    tensors = {}
    for layout, tensor in adapter.laid_out():
        tensors[layout.projections[0], layout.layers[0]] = tensor.factors
    for path, wrapped in adapter.require_attachment().wrapped.items():
        if path not in found:
            continue
        left, right, scale = found[path]
        if left.shape[1] != wrapped.in_features or right.shape[0] != wrapped.out_features:
            raise UserError(
                f"{folder / WEIGHTS}: {path} is for {left.shape[1]} to {right.shape[0]} features, the model's layer "
                f"has {wrapped.in_features} to {wrapped.out_features}"
            )
        rank = left.shape[0]
        for projection, part in zip(wrapped.projections, right.split(wrapped.widths), strict=True):
            if projection is not None:
                factors = tensors[projection, wrapped.layer]
                factors["input"][:, :rank].copy_(left.mT)
                factors["output"][:, :rank].copy_(part if scale == wrapped.scale else part * (scale / wrapped.scale))


def _head_paths(
    model: nn.Module, family: Family, config: dict[str, Any], tensors: dict[str, Tensor]
) -> tuple[str, ...]:
    """The model's own head, and the other modules that PEFT has saved whole: it compares the ends of names."""
    paths = list(head_of(model, family))
    ends = tuple(config.get("modules_to_save") or ())
    for path, _ in model.named_modules() if ends else ():
        is_saved = any(is_under(name, path) for name in tensors)
        if path.endswith(ends) and is_saved and not any(is_under(path, other) for other in paths):
            paths.append(path)
    return tuple(paths)


def _of_saved_modules(adapter: Adapter, head: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of those parts of the head that the checkpoint has anything of."""
    attachment = adapter.require_attachment()
    saved = [path for path in attachment.head_paths if any(is_under(name, path) for name in head)]
    state = attachment.head_state()
    return {name: value for name, value in state.items() if any(is_under(name, path) for path in saved)}


def _drop_shared(model: nn.Module, state: dict[str, Tensor], head: dict[str, Tensor], path: Path) -> None:
    """Take copies of shared tensors (a decoder tied to the embeddings) out of the head: they must be equal to them."""
    named = dict(model.named_parameters(remove_duplicate=False))
    originals = {id(value): head[name] for name, value in state.items() if name in head}
    for name in [name for name in head if name not in state and name in named]:
        copied, shared = head.pop(name), named[name]
        original = originals.get(id(shared), shared.detach())
        if copied.shape != original.shape or not torch.equal(copied.to(original), original):
            raise UserError(
                f"{path}: {name} is shared with the backbone in this model, but differs from it in the checkpoint; let "
                "PEFT merge the LoRA into the backbone instead"
            )


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")

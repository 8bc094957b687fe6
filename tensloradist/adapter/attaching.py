"""Attaching an adapter to a model, finding the one that it has, and taking it off."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import nn

from tensloradist.adapter.adapter import Adapter
from tensloradist.adapter.attachment import Attachment, linear_at
from tensloradist.adapter.projection import AdaptedLinear
from tensloradist.backbones import family_of
from tensloradist.backbones.task_head import ADAPTER_NAME, head_of
from tensloradist.budget import surplus_ranks
from tensloradist.errors import UserError
from tensloradist.spec import REFERENCES, AdapterSpec


class RankWarning(UserWarning):
    """Ranks exceed what the adapted matrices, or the modes of a tensor, can have."""


def attach(model: nn.Module, spec: AdapterSpec, seed: int = 0, head: Iterable[str] | None = None) -> Adapter:
    """Freeze the backbone, wrap its attention projections, and leave the task head trainable.

    The head is everything that the task adds to the pretrained base model (`…ForTokenClassification`,
    `…ForQuestionAnswering` and so on), and a pooler that transformers has drawn because the checkpoint lacks it.
    Parameters that a head shares with the backbone, such as a decoder tied to the input embeddings, stay frozen. A
    language model has no head.

    The adapter becomes the submodule `model.tensor_adapter`, on the backbone's device, in float32 (float64 for a
    float64 backbone). Outputs do not change until it is trained. The reference methods have an adapter without
    tensors: with `head` only the head is trainable, with `full` everything is.

    Args:
        model: a transformers or timm model of a registered family.
        seed: of the adapter's initial values; the head is left as it is.
        head: names of the modules to leave trainable instead; empty for none.

    Warns:
        RankWarning: ranks that exceed what the matrices can have.

    Raises:
        UserError: no registered family fits the model, it has an adapter already, the adapter cannot be expressed, or
            the head cannot be identified and is not given.
    """
    if not isinstance(spec, AdapterSpec):
        raise UserError(
            f"spec: expected an AdapterSpec, found {type(spec).__name__} {spec!r}; write for example "
            'AdapterSpec(method="lora", ranks=4), or AdapterSpec(**fields) for a dict of fields'
        )
    _refuse_adapted(model)
    family = family_of(model)
    paths = head_of(model, family, head)
    reference = spec.method in REFERENCES
    sites = [] if reference else family.adapted_sites(model, spec.projections)
    for site in sites:
        linear_at(model, site.path)
    shape = family.shape(model, spec.projections)
    place = sites[0].path if sites else family.sites(model)[0].path
    weight = model.get_submodule(place).weight
    if not isinstance(weight, torch.Tensor):
        raise UserError(f"{place}: a {type(model.get_submodule(place)).__name__} without a weight cannot be adapted")
    with torch.device(weight.device if weight.is_meta else "cpu"):
        adapter = Adapter(spec, shape, seed, torch.float64 if weight.dtype == torch.float64 else torch.float32)
    adapter.to(weight.device)
    surplus = surplus_ranks(spec, shape)
    if surplus is not None:
        warnings.warn(surplus, RankWarning, stacklevel=2)
    adapter.attachment = Attachment(model, adapter, family, sites, paths)
    return adapter


def _refuse_adapted(model: nn.Module) -> None:
    """Raise UserError if the model, or a module within it, has an adapter of ours: two would disturb each other."""
    if attached_adapter(model) is not None:
        raise UserError("The model has an adapter already; detach it first")
    for path, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            raise UserError(f"{path}: the layer has an adapter already; detach that from its model first")
        if attached_adapter(module) is not None:
            raise UserError(f"{path}: this part of the model has an adapter already; detach it first")


def attached_adapter(model: nn.Module) -> Adapter | None:
    """The adapter of the model, or None."""
    adapter = getattr(model, ADAPTER_NAME, None)
    return adapter if isinstance(adapter, Adapter) else None


def detach(model: nn.Module) -> None:
    """Take the model's adapter off. Raises UserError if it has none."""
    adapter = attached_adapter(model)
    if adapter is None:
        raise UserError("The model has no adapter to detach")
    adapter.detach()

"""The backbone's blocks, one an attention layer: recomputed in the backward pass, where memory is short.

Recomputation is torch's non-reentrant one alone. The reentrant one gives a shared adapter silently wrong gradients
under DDP.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tensloradist.backbones import Family
from tensloradist.errors import UserError


def blocks(model: nn.Module, family: Family) -> list[nn.Module]:
    """The modules that hold one attention layer each, in order: the innermost ones of a numbered list.

    Raises:
        UserError: an attention layer that is in no numbered list.
    """
    paths: dict[str, None] = {}
    for site in family.sites(model):
        parts = site.path.split(".")
        numbered = [index for index, part in enumerate(parts) if part.isdigit()]
        if not numbered:
            raise UserError(
                f"compute.activation_checkpointing: {site.path} of this {family.name} model is in no list of blocks "
                "that could be computed again one by one; leave it out"
            )
        paths[".".join(parts[: numbered[-1] + 1])] = None
    return [model.get_submodule(path) for path in paths]


def recompute(modules: list[nn.Module]) -> None:
    """Keep of each block's forward pass no more than its input, and compute the rest again in the backward pass."""
    for module in modules:
        module.forward = functools.partial(_recomputed, module.forward)  # type: ignore[method-assign]


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def keep_activations(modules: list[nn.Module]) -> None:
    """Undo `recompute`."""
    for module in modules:
        module.__dict__.pop("forward", None)

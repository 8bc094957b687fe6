"""The backbone's blocks, one for each attention layer: recomputed in the backward pass to save memory, or compiled.

Only torch's non-reentrant recomputation is used, since the reentrant one gives a shared adapter silently wrong
gradients under DDP. Blocks are compiled one at a time: they are the same code with other weights, so that few graphs
serve any number of layers, and no graph contains any of the adapter, the loss or the strategy.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tensloradist.adapter import Adapter
from tensloradist.backbones import Family
from tensloradist.errors import UserError
from tensloradist.training.compilers import check_compiler


def blocks(model: nn.Module, family: Family) -> list[nn.Module]:
    """The modules that hold one attention layer each, in order: the innermost ones of a numbered list.

    Raises:
        UserError: an attention layer is in no numbered list.
    """
    paths: dict[str, None] = {}
    for site in family.sites(model):
        parts = site.path.split(".")
        numbered = [index for index, part in enumerate(parts) if part.isdigit()]
        if not numbered:
            raise UserError(
                f"compute: {site.path} of this {family.name} model is in no list of blocks that could be recomputed "
                "or compiled one by one; leave activation_checkpointing and compile out"
            )
        paths[".".join(parts[: numbered[-1] + 1])] = None
    return [model.get_submodule(path) for path in paths]


def recompute(modules: list[nn.Module], adapter: Adapter) -> None:
    """Keep only the input of each block's forward pass, and recompute the rest in the backward pass.

    Args:
        adapter: the model's, whose pairs are not recomputed.
    """
    context = adapter.require_attachment().passes.recomputation
    for module in modules:
        module.forward = functools.partial(_recomputed, module.forward, context)


def _recomputed(forward: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=context, **kwargs)


def compile_blocks(modules: list[nn.Module], device: torch.device) -> None:
    """Let torch.compile make each block's forward and backward pass, on the block's first call.

    A block must be one graph: a graph break is an error, not a slower run. Random numbers remain torch's own, so that
    dropout draws the same as without compilation. Compile before `recompute`, which then calls the compiled block.

    Raises:
        UserError: the compiler that torch needs on this device is missing.
    """
    check_compiler(device.type)
    torch.compiler.reset()  # variants for earlier runs count against torch's limit
    for module in modules:
        compiled = torch.compile(module.forward, fullgraph=True, options={"fallback_random": True})
        module.forward = compiled

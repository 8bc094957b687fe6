"""A trained adapter as a LoRA checkpoint in PEFT's layout: adapter_config.json and adapter_model.safetensors.

For one projection the adapter adds scale · x A B. PEFT adds (alpha / r) · B' A' x with A' of shape r × d_in and B' of
shape d_out × r, so A' = Aᵀ, B' = scale · Bᵀ and alpha = r say the same. A fused layer computes several projections:
its A' are stacked, and B' is block-structured, unless all share one A.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as serialized
from torch import Tensor, nn

from tensloradist.adapter.attachment import Attachment
from tensloradist.adapter.projection import AdaptedLinear
from tensloradist.errors import UserError
from tensloradist.files import write_replacing
from tensloradist.new_folder import new_folder

PREFIX = "base_model.model."
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def write(attachment: Attachment, folder: Path, base_model: str | None = None, revision: str | None = None) -> None:
    """Write the attached adapter, with the task head, as a LoRA that PEFT loads.

    `peft.PeftModel.from_pretrained(model, folder)` on the plain backbone then computes the same logits.

    Args:
        folder: to make; an empty one may exist.
        base_model: the backbone's name in the checkpoint [what the model was loaded from].
        revision: of the backbone on the Hub.

    Raises:
        UserError: the folder is not empty, PEFT is not installed, the adapter is not a LoRA (no layer is adapted), or
            the head has parameters outside modules, which PEFT's format cannot hold.
    """
    adapter, model = attachment.adapter, attachment.model
    matrices = lora_matrices(attachment)
    if not matrices:
        raise UserError("This adapter updates no linear layer, so it is not a LoRA; export it merged")
    if adapter.biases:
        raise UserError(
            f"{adapter.spec.method} trains biases for {', '.join(adapter.biases)}, which a plain LoRA does not have; "
            "export it merged, or adapt query, key and value alone"
        )
    head = _saved_with(model, attachment)
    with new_folder(folder) as temporary:
        _config(attachment, matrices, base_model or _name_of(model), revision).save_pretrained(str(temporary))
        state = {}
        for path, (left, right) in matrices.items():
            state[f"{PREFIX}{path}.lora_A.weight"], state[f"{PREFIX}{path}.lora_B.weight"] = left, right
        state |= {f"{PREFIX}{name}": value for name, value in head.items()}
        content = serialized(
            {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}, {"format": "pt"}
        )
        write_replacing(temporary / WEIGHTS, content)


@torch.no_grad()
def lora_matrices(attachment: Attachment) -> dict[str, tuple[Tensor, Tensor]]:
    """Path of each adapted linear layer -> (A' of r × d_in, B' of d_out × r), scale included: its update is B' A'."""
    pairs = attachment.adapter()
    return {path: _matrices_of(wrapped, pairs) for path, wrapped in attachment.wrapped.items()}


def _matrices_of(wrapped: AdaptedLinear, pairs: dict[tuple[str, int], Any]) -> tuple[Tensor, Tensor]:
    lefts, rights, offsets, offset = [], [], [], 0
    for projection, width in zip(wrapped.projections, wrapped.widths, strict=True):
        if projection is not None:
            left, right = pairs[projection, wrapped.layer]
            lefts.append(left.mT)
            rights.append(wrapped.scale * right.mT)
            offsets.append(offset)
        offset += width
    shared = all(left.shape == lefts[0].shape and torch.equal(left, lefts[0]) for left in lefts)
    ranks = [lefts[0].shape[0]] if shared else [left.shape[0] for left in lefts]
    stacked = rights[0].new_zeros(offset, sum(ranks))
    column = 0
    for right, start in zip(rights, offsets, strict=True):
        stacked[start : start + right.shape[0], column : column + right.shape[1]] = right
        column += 0 if shared else right.shape[1]
    return (lefts[0] if shared else torch.cat(lefts)), stacked


def _config(
    attachment: Attachment, matrices: dict[str, tuple[Tensor, Tensor]], base_model: str | None, revision: str | None
) -> Any:
    try:
        from peft import LoraConfig
    except ModuleNotFoundError as error:
        raise UserError(f"This needs the package {error.name!r}: pip install 'tensloradist[export]'") from error
    ranks = {path: left.shape[0] for path, (left, _) in matrices.items()}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {path: rank for path, rank in ranks.items() if rank != usual}
    return LoraConfig(
        r=usual,
        lora_alpha=usual,
        rank_pattern=others,
        alpha_pattern=dict(others),
        target_modules=sorted(matrices),
        modules_to_save=list(attachment.head_paths) or None,
        base_model_name_or_path=base_model,
        revision=revision,
        inference_mode=True,
        # As PEFT's own save_pretrained writes for a model without a task type: so AutoPeftModel finds the class.
        auto_mapping={
            "base_model_class": type(attachment.model).__name__,
            "parent_library": type(attachment.model).__module__,
        },
    )


def _saved_with(model: nn.Module, attachment: Attachment) -> dict[str, Tensor]:
    """The state of every module that PEFT's `modules_to_save` takes for the head, since it compares the ends of names.

    Parameters that the head shares with the backbone are included, since PEFT copies whole modules.
    """
    paths, modules = attachment.head_paths, dict(model.named_modules())
    outside = [path for path in paths if path not in modules]
    if outside:
        raise UserError(
            f"The head has parameters outside modules ({', '.join(outside)}), which PEFT's format cannot hold; export "
            "it merged"
        )
    state: dict[str, Tensor] = {}
    for path, module in modules.items():
        if paths and path.endswith(paths):
            state |= {f"{path}.{name}": value for name, value in module.state_dict().items()}
    return state


def _name_of(model: nn.Module) -> str | None:
    return getattr(getattr(model, "config", None), "_name_or_path", None) or None

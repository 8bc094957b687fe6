"""Bytes beyond the model and the batch at the peak of a training step, on tensors without data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from families import FAMILIES

from tensloradist.adapter import attach
from tensloradist.backbones import family_of
from tensloradist.dataless import fill, forward_and_backward
from tensloradist.memory.step import LiveBytes
from tensloradist.spec import AdapterSpec
from tensloradist.training.blocks import blocks, recompute


def _vit_b() -> tuple[Any, Any, int]:
    from transformers import ViTConfig, ViTForImageClassification

    pictures = {"pixel_values": (64, 3, 224, 224)}
    return ViTForImageClassification(ViTConfig(num_labels=10)), _empty(pictures, torch.float32), 10


def _roberta() -> tuple[Any, Any, int]:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    sizes = {"max_position_embeddings": 514, "vocab_size": 50265, "type_vocab_size": 1}
    tokens = {"input_ids": (64, 128), "attention_mask": (64, 128)}
    return RobertaForSequenceClassification(RobertaConfig(num_labels=2, **sizes)), _empty(tokens, torch.int64), 2


def _empty(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> Callable[[str], dict[str, torch.Tensor]]:
    return lambda device: {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}


MODELS = {**FAMILIES, "ViT-B, batch 64": _vit_b, "RoBERTa-base, batch 64": _roberta}
# (model, precision, whether blocks are computed again in the backward pass)
STEPS = {
    "few": [("bert", "bf16", False), ("llama", "fp32", False), ("llama", "bf16", True)],
    "all": [(model, precision, again) for model in MODELS for precision in ("fp32", "bf16") for again in (False, True)],
}


def peaks(which: str, device: str, without_data: Callable[[], AbstractContextManager[None]]) -> dict[str, int]:
    """Name of the step -> bytes.

    Args:
        which: few or all.
        without_data: a context in which tensors have no data: what decides by whose rules the steps compute.
    """
    return {
        f"{model}, {precision}{', recomputed' if again else ''}": _peak(
            MODELS[model], precision, again, device, without_data
        )
        for model, precision, again in STEPS[which]
    }


def _peak(
    make: Callable[[], tuple[Any, Any, int]],
    precision: str,
    recomputed: bool,
    device: str,
    without_data: Callable[[], AbstractContextManager[None]],
) -> int:
    with torch.device("meta"):
        model, inputs, classes = make()
        model.train()
    adapter = attach(model, AdapterSpec(method="lora", ranks=4, dropout=0.1))
    with without_data():
        fill(model, torch.bfloat16 if precision == "bf16" else torch.float32, device)
        if recomputed:
            recompute(blocks(model, family_of(model)), adapter)
        batch = inputs(device)
        examples = len(next(iter(batch.values())))
        labels = torch.empty(examples, dtype=torch.int64, device=device)
        with LiveBytes([*model.parameters(), *model.buffers(), *batch.values(), labels]) as counted:
            forward_and_backward(model, classes, False, batch, labels, precision)
    return counted.peak

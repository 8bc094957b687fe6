"""Small models of the families, and batches for them, for steps on tensors without data."""

from __future__ import annotations

from typing import Any

import torch

EXAMPLES, CLASSES = 8, 10


def _tokens(device: str) -> dict[str, Any]:
    ids = torch.empty(EXAMPLES, 32, dtype=torch.int64, device=device)
    return {"input_ids": ids, "attention_mask": torch.empty_like(ids)}


def _images(device: str) -> dict[str, Any]:
    return {"pixel_values": torch.empty(EXAMPLES, 3, 224, 224, device=device)}


def _bert() -> tuple[Any, Any, int]:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    return BertForSequenceClassification(BertConfig(num_labels=CLASSES, **sizes)), _tokens, CLASSES


def _vit() -> tuple[Any, Any, int]:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    return ViTForImageClassification(ViTConfig(num_labels=CLASSES, **sizes)), _images, CLASSES


def _timm() -> tuple[Any, Any, int]:
    import timm

    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 4}
    return timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **sizes), _images, CLASSES


def _llama() -> tuple[Any, Any, int]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
        vocab_size=100,
    )
    return (
        LlamaForCausalLM(config),
        lambda device: {**_tokens(device), "targets": torch.empty(EXAMPLES, 6, dtype=torch.int64, device=device)},
        0,
    )


# Name -> what makes the model, what makes its inputs on a device, and the number of classes (0: a language model).
FAMILIES = {"bert": _bert, "vit": _vit, "timm": _timm, "llama": _llama}

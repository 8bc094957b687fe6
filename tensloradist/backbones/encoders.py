"""transformers' encoders, as image and text classifiers: ViT, DeiT, BERT, RoBERTa and DistilBERT.

The module names are those of transformers 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensloradist.backbones.base import Family, Site, ffn_sites
from tensloradist.backbones.task_head import transformers_head

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """Where one architecture has its parts: patterns and paths below its attention modules."""

    model_types: tuple[str, ...]
    attention: str  # pattern of an attention module's path, with the layer as its group
    projections: tuple[tuple[str, str], ...]
    config: str
    model: str
    sizes: tuple[tuple[str, int], ...]
    ffn: tuple[str, str]  # the two linear layers, below the layer that holds the attention
    unused_weights: tuple[str, ...]
    draws_pooler: bool = False  # whether it is pretrained without a pooler, so that a class with a pooler draws it


_BERT_PROJECTIONS = (
    ("query", "self.query"),
    ("key", "self.key"),
    ("value", "self.value"),
    ("attention_output", "output.dense"),
)
_VIT_PROJECTIONS = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("attention_output", "o_proj"))
_TINY_TEXT = (
    ("hidden_size", 24),
    ("num_hidden_layers", 2),
    ("num_attention_heads", 3),
    ("intermediate_size", 32),
    ("vocab_size", 50),
    ("max_position_embeddings", 40),
)
_TINY_IMAGE = (
    ("hidden_size", 24),
    ("num_hidden_layers", 2),
    ("num_attention_heads", 3),
    ("intermediate_size", 32),
    ("image_size", 16),
    ("patch_size", 8),
)

ARCHITECTURES = {
    "vit": Architecture(
        ("vit",),
        r"layers\.(\d+)\.attention",
        _VIT_PROJECTIONS,
        "ViTConfig",
        "ViTForImageClassification",
        _TINY_IMAGE,
        ("mlp.fc1", "mlp.fc2"),
        (r"(^|\.)pooler\.", r"^decoder\."),
    ),
    "deit": Architecture(
        ("deit",),
        r"layers\.(\d+)\.attention",
        _VIT_PROJECTIONS,
        "DeiTConfig",
        "DeiTForImageClassificationWithTeacher",
        _TINY_IMAGE,
        ("mlp.fc1", "mlp.fc2"),
        (r"(^|\.)pooler\.", r"^decoder\."),
    ),
    "bert": Architecture(
        ("bert",),
        r"encoder\.layer\.(\d+)\.attention",
        _BERT_PROJECTIONS,
        "BertConfig",
        "BertForSequenceClassification",
        _TINY_TEXT,
        ("intermediate.dense", "output.dense"),
        (r"^cls\.", r"position_ids$"),
    ),
    "roberta": Architecture(
        ("roberta", "xlm-roberta", "camembert"),
        r"encoder\.layer\.(\d+)\.attention",
        _BERT_PROJECTIONS,
        "RobertaConfig",
        "RobertaForSequenceClassification",
        _TINY_TEXT,
        ("intermediate.dense", "output.dense"),
        (r"^lm_head\.", r"(^|\.)pooler\.", r"position_ids$"),
        draws_pooler=True,
    ),
    "distilbert": Architecture(
        ("distilbert",),
        r"transformer\.layer\.(\d+)\.attention",
        (("query", "q_lin"), ("key", "k_lin"), ("value", "v_lin"), ("attention_output", "out_lin")),
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        (
            ("dim", 24),
            ("n_layers", 2),
            ("n_heads", 3),
            ("hidden_dim", 32),
            ("vocab_size", 50),
            ("max_position_embeddings", 40),
        ),
        ("ffn.lin1", "ffn.lin2"),
        (r"^vocab_", r"position_ids$"),
    ),
}


def _family(name: str, names: Architecture) -> Family:
    attention = re.compile(rf"(?:^|\.){names.attention}$")

    def matches(model: nn.Module) -> bool:
        return getattr(getattr(model, "config", None), "model_type", None) in names.model_types and bool(sites(model))

    def sites(model: nn.Module) -> list[Site]:
        found = []
        for path, module in model.named_modules():
            match = attention.search(path)
            if match:
                below = {child for child, _ in module.named_modules()}
                found += [
                    Site(int(match.group(1)), (projection,), f"{path}.{child}")
                    for projection, child in names.projections
                    if child in below
                ]
        return found

    def ffn(model: nn.Module) -> list[Site]:
        return ffn_sites(model, attention, names.ffn)

    def heads(model: nn.Module) -> tuple[int, int]:
        config: Any = model.config
        return config.num_attention_heads, getattr(config, "num_key_value_heads", None) or config.num_attention_heads

    def head(model: nn.Module) -> tuple[str, ...]:
        return transformers_head(model, names.draws_pooler)

    def example() -> tuple[nn.Module, dict[str, Tensor]]:
        return tiny(names)

    return Family(
        name=name,
        matches=matches,
        sites=sites,
        heads=heads,
        head=head,
        logits=_logits,
        example=example,
        unused_weights=names.unused_weights,
        ffn=ffn,
    )


def _logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    logits: Tensor = model(**inputs).logits
    return logits


def tiny(names: Architecture) -> tuple[nn.Module, dict[str, Tensor]]:
    """A tiny randomly initialised model of the architecture, and a batch of inputs."""
    import torch
    import transformers

    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()  # before transformers imports its image classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, names.config)(num_labels=4, **dict(names.sizes))
        model = getattr(transformers, names.model)(config).eval()
        if "image_size" in dict(names.sizes):
            return model, {"pixel_values": torch.randn(2, 3, 16, 16)}
        ids = torch.randint(5, 50, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return model, {"input_ids": ids, "attention_mask": mask}


ENCODER_FAMILIES = tuple(_family(name, names) for name, names in ARCHITECTURES.items())

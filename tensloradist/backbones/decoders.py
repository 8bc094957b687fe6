"""transformers' decoders: Llama, Mistral, Qwen and Gemma, as classifiers of their last token and as language models.

They have grouped-query attention, and their query's width may differ from the residual one (Gemma). The module names
are those of transformers 5.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tensloradist.backbones.base import Family, Site
from tensloradist.backbones.task_head import transformers_head

if TYPE_CHECKING:
    from torch import Tensor, nn

# Family -> (model types, configuration and classifier that the conformance tests build).
_FAMILIES = {
    "llama": (("llama",), "LlamaConfig", "LlamaForSequenceClassification"),
    "mistral": (("mistral",), "MistralConfig", "MistralForSequenceClassification"),
    "qwen": (("qwen2", "qwen3"), "Qwen3Config", "Qwen3ForSequenceClassification"),
    "gemma": (("gemma", "gemma2", "gemma3_text"), "Gemma2Config", "Gemma2ForSequenceClassification"),
}
DECODER_TYPES = tuple(model_type for model_types, *_ in _FAMILIES.values() for model_type in model_types)
IGNORED = -100  # a target that is no part of an answer

_ATTENTION = re.compile(r"(?:^|\.)layers\.(\d+)\.self_attn$")
_PROJECTIONS = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("attention_output", "o_proj"))
_TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}


def sites(model: nn.Module) -> list[Site]:
    found = []
    for path, _ in model.named_modules():
        match = _ATTENTION.search(path)
        if match:
            found += [Site(int(match.group(1)), (name,), f"{path}.{child}") for name, child in _PROJECTIONS]
    return found


def _heads(model: nn.Module) -> tuple[int, int]:
    config: Any = model.config
    return config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """A classifier's (n, num_labels); with `targets` among the inputs, a language model's `answer_scores`."""
    if "targets" not in inputs:
        classes: Tensor = model(**inputs, use_cache=False).logits
        return classes
    inputs = dict(inputs)
    targets = inputs.pop("targets")
    # Only the positions that predict an answer are worth the multiplication with the whole vocabulary.
    tokens: Tensor = model(**inputs, logits_to_keep=targets.shape[1], use_cache=False).logits
    return answer_scores(tokens, targets)


def answer_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """How well answers are predicted, each token from those before it.

    Args:
        logits: (n, positions, vocabulary).
        targets: (n, positions) the token that follows each position, or IGNORED.

    Returns:
        (n, 3) float32: the negative log-likelihood of the answer in nats, summed over its tokens; their number; and 1
        where every one of them is the most likely token, so that greedy decoding would give the very answer, else 0.
    """
    import torch
    import torch.nn.functional as F

    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    counted = targets != IGNORED
    right = (logits.detach().argmax(-1) == targets) | ~counted
    return torch.stack([losses.view(targets.shape).sum(1), counted.sum(1).float(), right.all(1).float()], dim=1)


def _example(config_class: str, model_class: str) -> tuple[nn.Module, dict[str, Tensor]]:
    import torch
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, config_class)(num_labels=4, **_TINY)
        model = getattr(transformers, model_class)(config).eval()
        ids = torch.randint(5, 50, (2, 9))
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 6:] = config.pad_token_id, 0
    return model, {"input_ids": ids, "attention_mask": mask}


def _family(name: str, model_types: tuple[str, ...], config_class: str, model_class: str) -> Family:
    def matches(model: nn.Module) -> bool:
        return getattr(getattr(model, "config", None), "model_type", None) in model_types and bool(sites(model))

    def example() -> tuple[nn.Module, dict[str, Tensor]]:
        return _example(config_class, model_class)

    # A classifier leaves out the pretrained prediction of tokens.
    return Family(
        name=name,
        matches=matches,
        sites=sites,
        heads=_heads,
        head=transformers_head,
        logits=logits,
        example=example,
        unused_weights=(r"^lm_head\.",),
    )


DECODER_FAMILIES = tuple(_family(name, *about) for name, about in _FAMILIES.items())

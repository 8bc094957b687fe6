"""A backbone family as a plugin would add it: a small grouped-query transformer that no library knows."""

import re

import torch
from torch import nn

from tensloradist.backbones import FAMILIES, Family, Site

WIDTH, HEADS, KV_HEADS, HEAD_DIM = 20, 8, 2, 3


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(WIDTH, HEADS * HEAD_DIM)
        self.k = nn.Linear(WIDTH, KV_HEADS * HEAD_DIM)
        self.v = nn.Linear(WIDTH, KV_HEADS * HEAD_DIM)
        self.o = nn.Linear(HEADS * HEAD_DIM, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for p in (self.q, self.k, self.v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.o(mixed.transpose(1, 2).flatten(2))


class PluginModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention() for _ in range(3))
        self.answer = nn.Linear(WIDTH, 4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            features = layer(features)
        return self.answer(features.mean(1))


def sites(model: nn.Module) -> list[Site]:
    names = {"q": "query", "k": "key", "v": "value", "o": "attention_output"}
    found = [(re.search(r"layers\.(\d+)\.([qkvo])$", path), path) for path, _ in model.named_modules()]
    return [Site(int(match[1]), (names[match[2]],), path) for match, path in found if match]


def example() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return PluginModel().eval(), {"features": torch.randn(2, 5, WIDTH)}


FAMILIES["plugin"] = Family(
    name="plugin",
    matches=lambda model: isinstance(model, PluginModel),
    sites=sites,
    heads=lambda model: (HEADS, KV_HEADS),
    head=lambda model: ("answer",),
    logits=lambda model, inputs: model(inputs["features"]),
    example=example,
)

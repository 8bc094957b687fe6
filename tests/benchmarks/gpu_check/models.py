"""The backbones whose steps are measured: those of operations.py with random weights, a larger and a tiny one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from operations import BACKBONES
from torch import nn

from gpu_check.part import absent

RANK = 4
LABELS = 10
PEFT = "peft"  # its LoRA, with which the family's members are compared


@dataclass(frozen=True)
class Model:
    """A backbone, its projections and head by the names of its library, and how much of it a step takes.

    Attributes:
        batch: images, or texts of `tokens` tokens.
    """

    make: Callable[[], nn.Module]
    targets: tuple[str, ...]
    head: str
    batch: int
    tokens: int | None = None
    image: int = 224

    def inputs(self, device: str) -> dict[str, torch.Tensor]:
        if self.tokens is None:
            return {"pixel_values": torch.randn(self.batch, 3, self.image, self.image, device=device)}
        ids = torch.randint(1, 250, (self.batch, self.tokens), device=device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _decoder_7b() -> nn.Module:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes: dict[str, Any] = {
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "intermediate_size": 14336,
        "vocab_size": 32000,
    }
    heads: dict[str, Any] = {"num_attention_heads": 32, "num_key_value_heads": 8}
    return LlamaForSequenceClassification(LlamaConfig(**sizes, **heads, num_labels=LABELS, pad_token_id=0))


def _tiny() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes: dict[str, Any] = {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return ViTForImageClassification(ViTConfig(**sizes, intermediate_size=128, num_labels=LABELS))


def _tiny_decoder() -> nn.Module:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 256}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForSequenceClassification(LlamaConfig(**sizes, **heads, num_labels=LABELS, pad_token_id=0))


QKV = ("q_proj", "k_proj", "v_proj")
_OF_VIT = BACKBONES["vit" if absent(["timm"]) else "timm"]
MODELS = {
    "vit_base": Model(_OF_VIT.make, _OF_VIT.targets, _OF_VIT.head, batch=64),
    "decoder_1b": Model(BACKBONES["llama"].make, QKV, BACKBONES["llama"].head, batch=16, tokens=128),
    "decoder_7b": Model(_decoder_7b, QKV, "score", batch=4, tokens=512),
    "tiny": Model(_tiny, QKV, "classifier", batch=4, image=32),
    "tiny_decoder": Model(_tiny_decoder, QKV, "score", batch=4, tokens=16),
}


def made(model: Model, device: str, precision: str) -> nn.Module:
    """The backbone with random weights, drawn on the device, in the run's precision."""
    torch.manual_seed(0)
    with torch.device(device):
        network = model.make()
    if precision == "bf16":
        for parameter in network.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    return network


class Method:
    """A member of the family, or PEFT's LoRA, on a backbone whose frozen weights all methods share."""

    def __init__(
        self, name: str, model: Model, network: nn.Module, device: str, precision: str, compiled: bool
    ) -> None:
        from tensloradist.backbones import family_of
        from tensloradist.training.blocks import blocks, compile_blocks

        own = {id(p) for p in network.get_submodule(model.head).parameters()}
        shared = {id(p): p for p in network.parameters() if id(p) not in own}
        self.name, self._device, self._precision = name, device, precision
        self.network: Any = copy.deepcopy(network, shared)
        self._optimizer = self._with_peft(model) if name == PEFT else self._with_adapter()
        self._family = family_of(self.network)
        self.network.train()
        if compiled:
            compile_blocks(blocks(self.network, self._family), torch.device(device))

    def _with_peft(self, model: Model) -> torch.optim.Optimizer:
        from peft import LoraConfig, inject_adapter_in_model

        self.network.requires_grad_(False)
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(model.targets))
        inject_adapter_in_model(config, self.network)
        self.network.get_submodule(model.head).requires_grad_(True)
        return torch.optim.AdamW(self._trained(), lr=1e-4, fused=True)

    def _with_adapter(self) -> torch.optim.Optimizer:
        from tensloradist.adapter import attach
        from tensloradist.spec import AdapterSpec, OptimizerSpec
        from tensloradist.training.optimization import make_optimizer

        lora = self.name == "lora"
        spec = AdapterSpec(method="lora", ranks=RANK) if lora else AdapterSpec(grouping=self.name, ranks=RANK)  # type: ignore[arg-type]
        adapter = attach(self.network, spec)
        trained = self._trained()
        counted = {id(p) for group in adapter.parameter_groups().values() for p in group}
        head = [parameter for parameter in trained if id(parameter) not in counted]
        return make_optimizer(adapter, head, OptimizerSpec(epochs=1, batch_size=64, learning_rate=1e-4))

    def _trained(self) -> list[nn.Parameter]:
        """What is trained, now in float32, on the device."""
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.data = parameter.data.to(self._device, torch.float32)
        return trained

    def step(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> None:
        with torch.autocast(self._device, torch.bfloat16, enabled=self._precision == "bf16"):
            logits = self._family.logits(self.network, inputs)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

"""Operations of a training step that launch a kernel, the family's against PEFT's LoRA on the same modules.

Forward, backward, clipping and AdamW run on CUDA tensors without data (tests/fake_cuda), so the counts are a GPU's and
need none. A small backbone's step on a GPU is bound by launches: its time follows these counts.

    python tests/benchmarks/operations.py                        # all backbones, fp32 and bf16
    python tests/benchmarks/operations.py --backbones timm --precisions bf16 --members all
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fake_cuda"))
PRELOADED = "fake_cuda.so" in os.environ.get("LD_PRELOAD", "")


@dataclass(frozen=True)
class Backbone:
    """A model of so many layers, and the names of its query, key and value layers for PEFT."""

    make: Any
    targets: tuple[str, ...]
    head: str
    inputs: Any


def _vit(layers: int = 12) -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(num_labels=10, num_hidden_layers=layers))


def _timm(layers: int = 12) -> Any:
    import timm

    return timm.create_model("vit_base_patch16_224", num_classes=10, depth=layers)


def _roberta(layers: int = 12) -> Any:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(num_labels=10, max_position_embeddings=514, num_hidden_layers=layers)
    return RobertaForSequenceClassification(config)


def _llama(layers: int = 16) -> Any:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        hidden_size=2048,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8192,
        vocab_size=128256,
        num_labels=10,
        pad_token_id=0,
    )
    return LlamaForSequenceClassification(config)


def _images() -> dict[str, Any]:
    import torch

    return {"pixel_values": torch.empty(64, 3, 224, 224, device="cuda")}


def _tokens() -> dict[str, Any]:
    import torch

    ids = torch.empty(64, 128, dtype=torch.int64, device="cuda")
    return {"input_ids": ids, "attention_mask": torch.empty_like(ids)}


BACKBONES = {
    "vit": Backbone(_vit, ("q_proj", "k_proj", "v_proj"), "classifier", _images),
    "timm": Backbone(_timm, ("qkv",), "head", _images),
    "roberta": Backbone(_roberta, ("query", "key", "value"), "classifier", _tokens),
    "llama": Backbone(_llama, ("q_proj", "k_proj", "v_proj"), "score", _tokens),
}


def members(which: str) -> dict[str, dict[str, Any]]:
    """The family's members by name: LoRA and the Tucker groupings, or all factorisations and presets as well."""
    from tensloradist.factorizations import FACTORIZATIONS
    from tensloradist.modes import GROUPINGS
    from tensloradist.presets import PRESETS

    named: dict[str, dict[str, Any]] = {"lora": {"method": "lora", "ranks": 4}}
    factorizations = ["tucker"] if which == "tucker" else [name for name in FACTORIZATIONS if name != "lora"]
    for factorization in factorizations:
        for grouping in GROUPINGS:
            named[f"{grouping} {factorization}"] = {"grouping": grouping, "factorization": factorization, "ranks": 4}
    if which == "all":
        named |= {name: {"method": name, "ranks": 4} for name in PRESETS if name not in named}
    return named


def count(
    backbone: Backbone, member: dict[str, Any] | None, precision: str, layers: int | None = None
) -> dict[str, Any]:
    """Kernels and waits of the second step of a member, or of PEFT's LoRA (None).

    Args:
        layers: of the backbone, its own number by default.
    """
    import torch
    from fake_cuda import operations, tensors_without_data

    from tensloradist.adapter import attach
    from tensloradist.dataless import fill, forward_and_backward
    from tensloradist.spec import AdapterSpec, OptimizerSpec
    from tensloradist.training.optimization import make_optimizer

    with torch.device("meta"):
        model = (backbone.make() if layers is None else backbone.make(layers)).train()
        if member is None:
            from peft import LoraConfig, inject_adapter_in_model

            model.requires_grad_(False)
            inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=list(backbone.targets)), model)
            model.get_submodule(backbone.head).requires_grad_(True)
    adapter = None if member is None else attach(model, AdapterSpec(**member))
    with tensors_without_data():
        fill(model, torch.bfloat16 if precision == "bf16" else torch.float32, "cuda")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if adapter is None:
            optimizer: torch.optim.Optimizer = torch.optim.AdamW(trained, fused=True)
        else:
            counted = {id(p) for group in adapter.parameter_groups().values() for p in group}
            head = [parameter for parameter in trained if id(parameter) not in counted]
            optimizer = make_optimizer(adapter, head, OptimizerSpec(epochs=1, batch_size=64, learning_rate=1e-3))
        inputs, labels = backbone.inputs(), torch.empty(64, dtype=torch.int64, device="cuda")
        for _ in range(2):
            with operations() as counter:
                forward_and_backward(model, 10, False, inputs, labels, precision)
                torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)  # torch's own choice for real CUDA tensors
                optimizer.step()
                optimizer.zero_grad()
    return {"kernels": sum(counter.kernels.values()), "waits": len(counter.waits), "by_name": dict(counter.kernels)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=list(BACKBONES), default=list(BACKBONES))
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--members", choices=["tucker", "all"], default="tucker")
    parser.add_argument("--json", help="write the counts to this file, by name of operation too")
    given = parser.parse_args()
    if not PRELOADED:
        from fake_cuda import environment

        sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment()).returncode)
    from tensloradist._torchvision import declare_missing_operators

    declare_missing_operators()
    found = []
    for name in given.backbones:
        for precision in given.precisions:
            theirs = count(BACKBONES[name], None, precision)
            print(f"\n{name}, {precision}: PEFT's LoRA launches {theirs['kernels']} kernels a step", flush=True)
            print(f"{'member':28} {'kernels':>8} {'/ PEFT':>7} {'waits':>6}")
            found.append({"backbone": name, "precision": precision, "member": "peft", **theirs})
            for member, fields in members(given.members).items():
                ours = count(BACKBONES[name], fields, precision)
                ratio = ours["kernels"] / theirs["kernels"]
                print(f"{member:28} {ours['kernels']:8} {ratio:7.3f} {ours['waits']:6}", flush=True)
                found.append({"backbone": name, "precision": precision, "member": member, **ours})
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Step time and peak memory of LoRA and every grouping on a GPU, in bf16, against PEFT's LoRA: one command.

    python tests/benchmarks/gpu.py                      # ViT-B, and decoders of about 1 and 7 billion parameters
    python tests/benchmarks/gpu.py --models vit_base --steps 50 --compile
    python tests/benchmarks/gpu.py --device cpu --models tiny --steps 2     # does it run at all?

Backbones have random weights: nothing is downloaded. Methods of one model take turns, so that a ratio is of neighbours
in time; each method's memory is the device's peak in its own turns. MFU is over the table of peaks in
tensloradist/throughput.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from tensloradist import backbones
from tensloradist.adapter import attach
from tensloradist.backbones import LANGUAGE_MODEL, family_of
from tensloradist.modes import GROUPINGS
from tensloradist.peaks import peak_rate
from tensloradist.spec import AdapterSpec, BackboneSpec
from tensloradist.tasks.examples import language_backbone
from tensloradist.throughput import step_flops
from tensloradist.training.blocks import as_they_were, blocks, compile_blocks

WIDE = {"num_attention_heads": 32, "num_key_value_heads": 8}
DECODERS = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128},
    "decoder_1b": dict(WIDE, hidden_size=2048, num_hidden_layers=20, intermediate_size=8192),
    "decoder_7b": dict(WIDE, hidden_size=4096, num_hidden_layers=32, intermediate_size=14336),
}
BATCH = {"vit_base": 64, "tiny": 2, "decoder_1b": 8, "decoder_7b": 4}
TOKENS = {"tiny": 32, "decoder_1b": 512, "decoder_7b": 512}
METHODS = ("peft", "lora", *GROUPINGS)


def backbone_of(name: str, folder: Path) -> BackboneSpec:
    if name == "vit_base":
        return BackboneSpec(source="timm", name="vit_base_patch16_224", random_init=True)
    return language_backbone(folder, name, tokens=TOKENS[name], **DECODERS[name])


def batch_of(name: str, device: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    examples = BATCH[name]
    if name == "vit_base":
        return {"pixel_values": torch.randn(examples, 3, 224, 224, device=device)}, torch.arange(
            examples, device=device
        ) % 10
    ids = torch.randint(3, 250, (examples, TOKENS[name]), device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "targets": ids.roll(-1, 1)}, ids[:, 0]


def with_peft(model: torch.nn.Module, rank: int) -> None:
    """PEFT's LoRA on the same projections, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    fused = any(name.endswith("attn.qkv") for name, _ in model.named_modules())
    targets = ["qkv"] if fused else ["q_proj", "k_proj", "v_proj"]
    model.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), model)
    for path in family_of(model).head(model):
        model.get_submodule(path).requires_grad_(True)


class Method:
    """One method on a backbone that all methods share: it is put on for its turns, and taken off again."""

    def __init__(self, name: str, rank: int) -> None:
        self.name, self.rank = name, rank
        self.seconds: list[float] = []
        self.peak = 0

    def spec(self) -> AdapterSpec:
        if self.name in ("lora", "peft"):
            return AdapterSpec(method="lora", ranks=self.rank)
        return AdapterSpec(grouping=self.name, ranks=self.rank)

    def turn(self, model, inputs, labels, device: str, steps: int, compiled: bool) -> None:
        """A fresh adapter, one step to warm up (and compile), and `steps` that are timed."""
        adapter = None
        if self.name == "peft":
            with_peft(model, self.rank)
        else:
            adapter = attach(model, self.spec())
        trainable = [p for p in model.parameters() if p.requires_grad]
        for parameter in trainable:
            parameter.data = parameter.data.float()
        optimizer = torch.optim.AdamW(trainable, lr=1e-4, fused=True)
        model.train()
        modules = blocks(model, family_of(model)) if compiled else []
        if compiled:
            compile_blocks(modules, torch.device(device))
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for step in range(steps + 1):
            began = time.perf_counter()
            with torch.autocast(device, torch.bfloat16):
                outputs = family_of(model).logits(model, inputs).float()
            loss = (
                outputs[:, 0].sum() / outputs[:, 1].sum()
                if "targets" in inputs
                else torch.nn.functional.cross_entropy(outputs, labels)
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()
            if step:
                self.seconds.append(time.perf_counter() - began)
        if device == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())
        as_they_were(modules)
        if adapter is not None:
            adapter.detach()
        else:
            _without_peft(model)


def _without_peft(model: torch.nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, module.get_base_layer())


def benchmark(name: str, arguments: argparse.Namespace, folder: Path) -> list[dict]:
    device, spec = arguments.device, backbone_of(name, folder)
    num_labels = 10 if name == "vit_base" else LANGUAGE_MODEL
    print(f"{name}: drawing random weights", file=sys.stderr, flush=True)
    model = backbones.load(spec, num_labels)
    parameters = sum(p.numel() for p in model.parameters())
    model.requires_grad_(False).to(device=device, dtype=torch.bfloat16)
    inputs, labels = batch_of(name, device)
    shapes = tuple((key, tuple(value.shape), value.dtype) for key, value in sorted(inputs.items()))
    methods = [Method(method, arguments.rank) for method in arguments.methods]
    for round_ in range(arguments.rounds):
        for method in methods[round_:] + methods[:round_]:
            method.turn(model, inputs, labels, device, arguments.steps, arguments.compile)
        print(f"{name}: round {round_ + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    peak = peak_rate(torch.cuda.get_device_name() if device == "cuda" else None, "bf16")
    rows = []
    for method in methods:
        seconds = median(method.seconds)
        flops = step_flops(spec, method.spec(), num_labels, False, shapes)
        rows.append(
            {
                "model": name,
                "parameters": parameters,
                "method": method.name,
                "step_seconds": seconds,
                "ratio": seconds / median(methods[0].seconds),
                "peak_bytes": method.peak or None,
                "memory_ratio": method.peak / methods[0].peak if methods[0].peak else None,
                "mfu": flops / seconds / peak if peak else None,
            }
        )
    return rows


def shown(rows: list[dict], device: str, compiled: bool) -> Table:
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    table = Table(title=f"{name}, bf16{', compiled' if compiled else ''}, torch {torch.__version__}")
    for column in ("model", "parameters", "method", "step ms", "to the first", "peak GiB", "to the first", "MFU"):
        table.add_column(column, justify="left" if column in ("model", "method") else "right")
    for row in rows:
        table.add_row(
            row["model"],
            f"{row['parameters'] / 1e6:,.0f} M",
            row["method"],
            f"{1e3 * row['step_seconds']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['peak_bytes'] / 2**30:.2f}" if row["peak_bytes"] else "-",
            f"{row['memory_ratio']:.3f}" if row["memory_ratio"] else "-",
            f"{row['mfu']:.1%}" if row["mfu"] else "-",
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vit_base", "decoder_1b", "decoder_7b"], choices=list(BATCH))
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, help="the first is compared with"
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a method in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="torch.compile each block, of every method")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; --device cpu --models tiny shows that the script runs")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            rows += benchmark(name, arguments, Path(folder))
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
    Console(width=140).print(shown(rows, arguments.device, arguments.compile))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

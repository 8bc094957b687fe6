"""Benchmark: training-step time and peak memory of every factorisation and preset against PEFT's LoRA.

All have the same backbone and the same rank of their pairs. Time: steps of PEFT and of every member alternate in one
process, in rotating order; the figure is the median of the ratios within a round, with a bootstrap 95 % interval. It
holds if that median is at most the bound. Memory: the high-water mark of a process of its own for each
member. The backbone is ViT-B/16 (or DeiT-Tiny) with random weights: speed does not depend on them. Dropout on the
input, which PEFT's LoRA would have to have too, is off.

    python tests/benchmarks/adapter_step.py --members tucker lora --steps 20 --bound 1.05
    python tests/benchmarks/adapter_step.py --members fact_tt metatt_5d "qkv_depth tt"
    python tests/benchmarks/adapter_step.py --device cuda --batch 64 --precision bf16
"""

import argparse
import copy
import functools
import subprocess
import sys
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import tensloradist._torchvision  # noqa: F401 (before transformers' image classes)
from tensloradist.adapter import attach
from tensloradist.modes import GROUPINGS
from tensloradist.presets import PRESETS
from tensloradist.spec import AdapterSpec
from tensloradist.training.provenance import peak_memory, reset_peak_memory

SPECS = {
    "lora": AdapterSpec(method="lora"),
    **{f"{g} {f}": AdapterSpec(grouping=g, factorization=f) for f in ("tucker", "cp", "tt") for g in GROUPINGS},
    **{method: AdapterSpec(method=method) for method in PRESETS},
}
SIZES = {
    "vit_base": {},
    "deit_tiny": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
}


def chosen(members: list[str]) -> list[str]:
    """The members whose name, or one of its words, is given; all for none."""
    for member in members:
        if not any(member in (name, *name.split()) for name in SPECS):
            sys.exit(f"--members: no {member!r}; known: {', '.join(SPECS)}")
    return [name for name in SPECS if not members or any(member in (name, *name.split()) for member in members)]


@functools.cache
def pretrained(size: str, device: str) -> torch.nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(num_labels=10, **SIZES[size])).to(device)


def backbone(arguments) -> torch.nn.Module:
    """A model with a head of its own, on frozen weights that all share."""
    model = pretrained(arguments.backbone, arguments.device)
    frozen = {id(p): p for name, p in model.named_parameters() if not name.startswith("classifier")}
    return copy.deepcopy(model, frozen)


def peft_lora(arguments) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=arguments.rank,
        lora_alpha=arguments.rank,
        target_modules=["q_proj", "k_proj", "v_proj"],
        modules_to_save=["classifier"],
    )
    return get_peft_model(backbone(arguments), config)


def built(member: str, arguments) -> torch.nn.Module:
    if member == "peft":
        model = peft_lora(arguments)
    else:
        spec = SPECS[member].model_copy(update={"ranks": arguments.rank})
        if spec.dropout_on == "input":
            spec = spec.model_copy(update={"dropout": 0.0})
        model = backbone(arguments)
        attach(model, spec)
    cast_frozen(model, arguments.precision)
    return model


def stepper(model: torch.nn.Module, batch: int, device: str, precision: str, clock=time.perf_counter):
    """A function that makes one training step and returns its seconds."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(batch, 3, 224, 224, generator=generator).to(device)
    labels = (torch.arange(batch) % 10).to(device)

    def step() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        began = clock()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(pixel_values=pixels).logits
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - began

    model.train()
    return step


def cast_frozen(model: torch.nn.Module, precision: str) -> None:
    if precision == "bf16":
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)


def bootstrap(ratios: np.ndarray) -> tuple[float, float]:
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (10_000, len(ratios))), axis=1)
    return tuple(np.quantile(medians, [0.025, 0.975]))


def time_methods(arguments) -> list[dict]:
    """Rounds of one step of PEFT's and one of each method, in rotating order; ratios are within a round."""

    def prepared(method: str):
        clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
        return stepper(built(method, arguments), arguments.batch, arguments.device, arguments.precision, clock)

    steps = {method: prepared(method) for method in ("peft", *arguments.methods)}
    order, seconds = list(steps), {method: [] for method in steps}
    for turn in range(arguments.warmup + arguments.steps):
        for method in order:
            took = steps[method]()
            if turn >= arguments.warmup:
                seconds[method].append(took)
        order = [*order[1:], order[0]]
        done = turn + 1 - arguments.warmup
        if done > 0:
            ratios = {m: np.median(np.array(seconds[m]) / seconds["peft"]) for m in arguments.methods}
            shown = ", ".join(f"{m} {ratio:.3f}" for m, ratio in ratios.items())
            print(f"round {done} of {arguments.steps}: {shown}", file=sys.stderr, flush=True)
    rows = []
    for method in arguments.methods:
        ratios = np.array(seconds[method]) / np.array(seconds["peft"])
        low, high = bootstrap(ratios)
        rows.append(
            {
                "method": method,
                "peft": float(np.median(seconds["peft"])),
                "ours": float(np.median(seconds[method])),
                "ratio": float(np.median(ratios)),
                "low": float(low),
                "high": float(high),
            }
        )
    return rows


def measure_memory(arguments) -> None:
    """Child process: the peak of one method, in bytes, on stdout."""
    model = built(arguments.memory_of, arguments)
    step = stepper(model, arguments.batch, arguments.device, arguments.precision)
    reset_peak_memory()
    for _ in range(3):
        step()
    host, device = peak_memory()
    print(device if arguments.device == "cuda" else host)


def memory(method: str, arguments) -> int:
    command = [
        sys.executable,
        __file__,
        "--memory-of",
        method,
        "--device",
        arguments.device,
        "--backbone",
        arguments.backbone,
        "--batch",
        str(arguments.batch),
        "--rank",
        str(arguments.rank),
        "--precision",
        arguments.precision,
    ]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--bound", type=float, default=1.10)
    parser.add_argument("--backbone", default="vit_base", choices=SIZES)
    parser.add_argument("--members", nargs="+", default=[], help="names or words of them, such as cp or fact_tt [all]")
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: processor time, for a machine that others use"
    )
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.methods = chosen(arguments.members)
    if arguments.memory_of:
        measure_memory(arguments)
        return 0
    rows = time_methods(arguments)
    peaks = {} if arguments.no_memory else {m: memory(m, arguments) for m in ("peft", *arguments.methods)}
    title = (
        f"{arguments.backbone}, r={arguments.rank}, batch {arguments.batch}, {arguments.device}, "
        f"{arguments.precision}, {torch.get_num_threads()} threads: against PEFT's LoRA, {arguments.steps} pairs"
    )
    table = Table(title=title)
    for column in (
        "method",
        "PEFT s",
        "ours s",
        "time ratio",
        "95 % interval",
        "holds",
        "peak MB",
        "memory ratio",
        "memory holds",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")
    ok = True
    for row in rows:
        holds = row["ratio"] <= arguments.bound
        cells = [
            row["method"],
            f"{row['peft']:.3f}",
            f"{row['ours']:.3f}",
            f"{row['ratio']:.3f}",
            f"[{row['low']:.3f}, {row['high']:.3f}]",
            "yes" if holds else "NO",
        ]
        if peaks:
            ratio = peaks[row["method"]] / peaks["peft"]
            cells += [
                f"{peaks[row['method']] / 2**20:.0f}",
                f"{ratio:.3f}",
                "yes" if ratio <= arguments.bound else "NO",
            ]
            holds = holds and ratio <= arguments.bound
        ok = ok and holds
        table.add_row(*cells)
    Console(width=140).print(table)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())

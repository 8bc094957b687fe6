"""A training step of members of the family on CUDA tensors without data; run with the device preloaded (fake_cuda.py).

Prints one line of JSON: for each combination that failed, its name and error; how many were tried; what some steps hold
at their peak (peaks.py); and the kernels of a layer (kernels.py).

    python steps.py few|all
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import kernels
import torch
from fake_cuda import operations, tensors_without_data
from families import EXAMPLES, FAMILIES
from peaks import peaks

from tensloradist._torchvision import declare_missing_operators
from tensloradist.adapter import attach
from tensloradist.backbones import family_of
from tensloradist.dataless import autocast, fill
from tensloradist.errors import UserError
from tensloradist.modes import GROUPINGS
from tensloradist.presets import PRESETS
from tensloradist.spec import AdapterSpec, OptimizerSpec
from tensloradist.tasks.losses import example_losses
from tensloradist.training.optimization import make_optimizer

FEW = (  # each family in both precisions, and each way in which pairs are made
    "lora, dropout",
    "att tucker",
    "qkv_depth cp",
    "att_qkv_depth tt",
    "fact_tt original",
    "hidden dropout",
    "att_qkv_depth tucker fused",
    "full",
    "cara original",
)


def members() -> dict[str, dict[str, Any]]:
    named: dict[str, dict[str, Any]] = {
        "lora": {"method": "lora"},
        "lora, dropout": {"method": "lora", "dropout": 0.1},
        "hidden dropout": {"grouping": "qkv_depth", "dropout": 0.1, "dropout_on": "hidden"},
        "attention output": {
            "grouping": "att_qkv_depth",
            "projections": ("query", "key", "value", "attention_output"),
        },
        "head": {"method": "head"},
        "full": {"method": "full"},
    }
    for factorization in ("tucker", "cp", "tt"):
        for grouping in GROUPINGS:
            named[f"{grouping} {factorization}"] = {"grouping": grouping, "factorization": factorization}
        for grouping in ("qkv_depth", "att_qkv_depth"):
            fields = {"grouping": grouping, "factorization": factorization, "fused": True}
            named[f"{grouping} {factorization} fused"] = fields
    for preset in PRESETS:
        named[preset] = {"method": preset}
        named[f"{preset} original"] = {"method": preset, "targets": "original"}
    return named


def combinations(which: str) -> Iterator[tuple[str, str, str]]:
    """(family, member, precision): all, or each member once and each family in each precision."""
    everything = [(f, m, p) for f in FAMILIES for m in members() for p in ("fp32", "bf16")]
    if which == "all":
        yield from everything
        return
    families = list(FAMILIES)
    for index, member in enumerate(FEW):
        yield families[index % len(families)], member, ("fp32", "bf16")[index // len(families) % 2]


def step(family: str, member: str, precision: str) -> list[str]:
    """Two whole steps; returns what made the host wait in the second."""
    fields = members()[member]
    ranks = {} if fields.get("method") in ("head", "full") else {"ranks": 4}
    with torch.device("meta"):
        model, inputs, classes = FAMILIES[family]()
        model.train()
    adapter = attach(model, AdapterSpec(**fields, **ranks))
    with tensors_without_data():
        fill(model, torch.bfloat16 if precision == "bf16" else torch.float32, "cuda")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        counted = {id(p) for group in adapter.parameter_groups().values() for p in group}
        head = [parameter for parameter in trained if id(parameter) not in counted]
        optimizer = make_optimizer(adapter, head, OptimizerSpec(epochs=1, batch_size=8, learning_rate=1e-3))
        batch, labels = inputs("cuda"), torch.empty(EXAMPLES, dtype=torch.int64, device="cuda")
        for _ in range(2):
            with operations() as counter:
                with autocast(precision, "cuda"):
                    logits = family_of(model).logits(model, batch).float()
                example_losses(logits, labels, classes, False).sum().backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
    strays = {str(p.grad.device) for p in trained if p.grad is not None} - {"cuda:0"}
    if strays:
        raise RuntimeError(f"gradients on {strays}")
    return counter.waits


def main() -> None:
    declare_missing_operators()
    tried, refused, failed, waits = 0, 0, {}, {}
    for family, member, precision in combinations(sys.argv[1]):
        name = f"{family}, {member}, {precision}"
        try:
            found = step(family, member, precision)
        except UserError:
            refused += 1  # a preset that does not fit the family: refused by name, as everywhere
            continue
        except Exception as error:  # whatever it is, it is what the test is for
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        tried += 1
        if found:
            waits[name] = found
    result = {"tried": tried, "refused": refused, "failed": failed, "waits": waits}
    result["peaks"] = peaks(sys.argv[1], "cuda", tensors_without_data)
    result["kernels"] = kernels.found() if sys.argv[1] == "few" else {}
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Kernels that each further layer of a backbone adds to a training step, the family's and PEFT's; as steps.py is run.

What does not grow with depth, the pairs' own computation, is in the benchmark's counts (tests/benchmarks/operations.py).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from operations import BACKBONES, count

MEMBERS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "ranks": 4},
    "att_qkv_depth": {"grouping": "att_qkv_depth", "ranks": 4},
}
CASES = (("timm", "bf16"), ("timm", "fp32"), ("vit", "bf16"))


def of_a_layer(backbone: str, member: dict[str, Any] | None, precision: str) -> int:
    few, many = (count(BACKBONES[backbone], member, precision, layers)["kernels"] for layers in (2, 3))
    return int(many - few)


def found() -> dict[str, tuple[int, int]]:
    """Case -> (ours, PEFT's), for one more layer."""
    counts = {}
    for backbone, precision in CASES:
        pefts = of_a_layer(backbone, None, precision)
        for name, member in MEMBERS.items():
            counts[f"{backbone}, {name}, {precision}"] = of_a_layer(backbone, member, precision), pefts
    return counts

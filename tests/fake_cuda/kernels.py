"""Kernels that each further layer of a backbone adds to a training step, our LoRA's and PEFT's.

What does not grow with depth, the pairs' own computation, is in the counts of tests/benchmarks/operations.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from operations import BACKBONES, count

CASES = (("timm", "bf16"), ("vit", "bf16"))


def of_a_layer(backbone: str, member: dict[str, Any] | None, precision: str) -> int:
    few, many = (count(BACKBONES[backbone], member, precision, layers)["kernels"] for layers in (1, 2))
    return int(many - few)


def found() -> dict[str, tuple[int, int]]:
    """Backbone and precision -> (our LoRA's, PEFT's), for one more layer."""
    ours = {"method": "lora", "ranks": 4}
    return {f"{b}, {p}": (of_a_layer(b, ours, p), of_a_layer(b, None, p)) for b, p in CASES}

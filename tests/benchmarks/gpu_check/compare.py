"""Whether two runs came out alike: to the bit, or, as many of a GPU's kernels sum in no fixed order, nearly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from tensloradist.results.schema import Result

PREDICTIONS = "predictions.safetensors"
FILES = (PREDICTIONS, "adapter.safetensors", "head.safetensors")
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}  # largest difference of logits, as a share of the largest logit


def compared(first: Result, second: Result, folders: tuple[Path, Path], precision: str, bits: bool) -> tuple[bool, str]:
    """(whether they are alike, in words).

    Args:
        folders: their attempts' folders.
        bits: whether nothing but equal bits will do.
    """
    if first.fingerprints != second.fingerprints:
        return False, "the fingerprints of data, order, head or backbone differ"
    if all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in FILES):
        if first.metrics == second.metrics:
            return True, "predictions and trained weights are equal to the bit"
        return False, f"equal predictions, but scores {first.metrics.score} and {second.metrics.score}"
    apart, most = distance(folders[0] / PREDICTIONS, folders[1] / PREDICTIONS), TOLERANCE[precision]
    allowed = "none allowed" if bits else f"at most {most:.0e}"
    text = f"not to the bit: logits are {apart:.1e} of the largest apart ({allowed}), "
    text += f"scores {first.metrics.score} and {second.metrics.score}"
    return not bits and apart <= most, text


def distance(first: Path, second: Path) -> float:
    """The largest difference between two files' numbers, as a share of the largest in its tensor; NaN where one is."""
    from safetensors.torch import load_file

    a, b = load_file(first), load_file(second)
    if {name: value.shape for name, value in a.items()} != {name: value.shape for name, value in b.items()}:
        return float("inf")
    shares = [
        (a[name].double() - b[name].double()).abs().max() / a[name].double().abs().max().clamp_min(1e-12) for name in a
    ]
    return float(torch.stack(shares).max())  # of which NaN is the largest

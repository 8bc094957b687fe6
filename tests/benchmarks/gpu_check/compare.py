"""Whether two runs came out alike: to the bit, or, as many of a GPU's kernels sum in no fixed order, nearly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensloradist.results.schema import Result

FILES = ("predictions.safetensors", "adapter.safetensors", "head.safetensors")
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}  # largest difference of logits, as a share of the largest logit


def compared(first: Result, second: Result, folders: tuple[Path, Path], precision: str, bits: bool) -> tuple[bool, str]:
    """(whether they are alike, in words).

    Args:
        folders: their attempts' folders.
        bits: whether nothing but equal bits will do.
    """
    import torch
    from safetensors.torch import load_file

    if first.fingerprints != second.fingerprints:
        return False, "the fingerprints of data, order, head or backbone differ"
    if all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in FILES):
        return first.metrics == second.metrics, "predictions and trained weights are equal to the bit"
    a, b = (load_file(folder / FILES[0]) for folder in folders)
    if a.keys() != b.keys():
        return False, f"predictions of {sorted(a)} and of {sorted(b)}"
    largest = 0.0
    for name in a:
        if not torch.is_floating_point(a[name]):
            continue
        difference = (a[name].double() - b[name].double()).abs().max()
        largest = max(largest, float(difference / a[name].double().abs().max().clamp_min(1e-12)))
    scores = f"scores {first.metrics.score} and {second.metrics.score}"
    text = f"logits differ by {largest:.1e} of the largest (tolerance {TOLERANCE[precision]:.0e}), {scores}"
    return not bits and largest <= TOLERANCE[precision], text

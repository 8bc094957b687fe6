"""torch's settings of a whole process that change numbers: float32 computes in full, and other switches are recorded.

TF32 has ten bits of mantissa of float32's 23. By torch's defaults convolutions use it on a GPU and matrix products do
not; a run in fp32 uses it nowhere, so that it means the same on a GPU as on the CPU. A run in bf16 is the fast one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch

# Other switches, by their names in torch, and torch's defaults.
_SWITCHES = {
    "are_deterministic_algorithms_enabled": False,
    "backends.cuda.cudnn_sdp_enabled": True,
    "backends.cuda.flash_sdp_enabled": True,
    "backends.cuda.math_sdp_enabled": True,
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction": True,
    "backends.cuda.mem_efficient_sdp_enabled": True,
    "backends.cudnn.benchmark": False,
    "backends.cudnn.deterministic": False,
    "backends.cudnn.enabled": True,
    "backends.mkldnn.enabled": True,
}


@contextmanager
def full_float32() -> Iterator[None]:
    """Compute float32 in full within it: no TF32, no bfloat16 in its place. Afterwards the earlier settings hold again.

    Set in both of torch's ways, the older flags and the newer precisions: each raises an error when it is read where
    the other was set alone, and torch.compile reads both.
    """
    convolutions = float32_precisions()["convolution"] == "tf32"
    places = _places()
    before = [place.fp32_precision for place in places]
    _set_precisions(places, ["ieee"] * len(places))
    products = torch.get_float32_matmul_precision()
    _set_flags("highest", False)
    _set_precisions(places, ["ieee"] * len(places))
    try:
        yield
    finally:
        _set_flags(products, convolutions)
        _set_precisions(places, before)


def float32_precisions() -> dict[str, str]:
    """What float32 computes in now: 'ieee' (in full) or 'tf32', for matrix products and convolutions on a GPU."""
    if places := _places():
        _, matmul, convolution, *_ = places
        found = [matmul.fp32_precision, convolution.fp32_precision]
    else:
        flags = (torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32)
        found = ["tf32" if flag else "ieee" for flag in flags]
    return dict(zip(("matmul", "convolution"), ("ieee" if value == "none" else value for value in found), strict=True))


def changed_switches() -> dict[str, str]:
    """torch's other switches that change numbers and are not at torch's defaults, with their values by name."""
    values = {name: attrgetter(name)(torch) for name in _SWITCHES}
    now = {name: value() if callable(value) else value for name, value in values.items()}
    return {f"torch.{name}": str(value) for name, value in now.items() if value != _SWITCHES[name]}


def _places() -> tuple[Any, ...]:
    """What has an `fp32_precision` (nothing before torch 2.9). Of cuDNN itself, it is its operations' default."""
    if not hasattr(torch.backends, "fp32_precision"):
        return ()
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    return cudnn, backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn


def _set_precisions(places: Sequence[Any], precisions: Sequence[str]) -> None:
    for place, precision in zip(places, precisions, strict=True):
        place.fp32_precision = precision


def _set_flags(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions

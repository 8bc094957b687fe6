"""Settings of torch, for a whole process, that change numbers: float32 computes in full, other switches are recorded.

TF32 keeps ten bits of float32's 23-bit mantissa. By default torch uses it on a GPU in convolutions, but not in matrix
products. A run in fp32 never uses it, so that fp32 means the same on a GPU as on the CPU; use bf16 for speed.
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
    """Compute float32 in full within this context, without TF32 or bfloat16; restore the earlier settings afterwards.

    Both of torch's interfaces are set, the older flags and the newer precisions: reading one after only the other was
    set raises an error, and torch.compile reads both.
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
    """How float32 is computed on a GPU now, 'ieee' (in full) or 'tf32': for matrix products and for convolutions."""
    if places := _places():
        _, matmul, convolution, *_ = places
        found = [matmul.fp32_precision, convolution.fp32_precision]
    else:
        flags = (torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32)
        found = ["tf32" if flag else "ieee" for flag in flags]
    return dict(zip(("matmul", "convolution"), ("ieee" if value == "none" else value for value in found), strict=True))


def changed_switches() -> dict[str, str]:
    """torch's other switches that change numbers and are not at their defaults: name -> value."""
    values = {name: attrgetter(name)(torch) for name in _SWITCHES}
    now = {name: value() if callable(value) else value for name, value in values.items()}
    return {f"torch.{name}": str(value) for name, value in now.items() if value != _SWITCHES[name]}


def _places() -> tuple[Any, ...]:
    """The objects with an `fp32_precision` (none before torch 2.9); cuDNN's own is the default of its operations."""
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

"""torch's settings of a whole process that change numbers: float32 computes in full, and other switches are recorded.

TF32 has ten bits of mantissa of float32's 23. By torch's defaults convolutions use it on a GPU and matrix products do
not; a run in fp32 uses it nowhere, so that it means the same on a GPU as on the CPU. A run in bf16 is the fast one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

# (backend, operation); "cuda" is cuBLAS's matrix products, and cuDNN's convolutions and recurrent layers.
_OPERATIONS = [
    *(("cuda", operation) for operation in ("all", "matmul", "conv", "rnn")),
    *(("mkldnn", operation) for operation in ("matmul", "conv", "rnn")),
]
# Of cuBLAS: whether sums of products in 16 bits may be reduced, and accumulated, in them.
_CUBLAS = {
    "allow_bf16_reduced_precision_reduction": True,
    "allow_fp16_reduced_precision_reduction": True,
    "allow_fp16_accumulation": False,
}
_SWITCHES: dict[str, tuple[Callable[[], bool], bool]] = {
    "torch.are_deterministic_algorithms_enabled": (torch.are_deterministic_algorithms_enabled, False),
    "torch.backends.cudnn.enabled": (lambda: torch.backends.cudnn.enabled, True),
    "torch.backends.cudnn.benchmark": (lambda: torch.backends.cudnn.benchmark, False),
    "torch.backends.cudnn.deterministic": (lambda: torch.backends.cudnn.deterministic, False),
    "torch.backends.cuda.flash_sdp_enabled": (torch.backends.cuda.flash_sdp_enabled, True),
    "torch.backends.cuda.mem_efficient_sdp_enabled": (torch.backends.cuda.mem_efficient_sdp_enabled, True),
    "torch.backends.cuda.math_sdp_enabled": (torch.backends.cuda.math_sdp_enabled, True),
    "torch.backends.cuda.cudnn_sdp_enabled": (torch.backends.cuda.cudnn_sdp_enabled, True),
    "torch.backends.mkldnn.enabled": (lambda: torch.backends.mkldnn.enabled, True),
    **{
        f"torch.backends.cuda.matmul.{name}": (lambda name=name: getattr(torch.backends.cuda.matmul, name), default)  # type: ignore[misc]
        for name, default in _CUBLAS.items()
        if hasattr(torch.backends.cuda.matmul, name)
    },
}
"""Name -> how to read it, and torch's default."""


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 within, and no bfloat16 in float32's place; then what computed as it did before does so again.

    Said in both of torch's ways, the older flags and the newer precisions: each raises an error when it is read where
    the other was set alone, and torch.compile reads both.
    """
    before = {where: _precision(*where) for where in _OPERATIONS} if _has_precisions() else {}
    convolutions = "tf32" in (before["cuda", "conv"], before["cuda", "rnn"]) if before else torch.backends.cudnn.allow_tf32
    for where in before:
        _set_precision(where, "ieee")
    products = torch.get_float32_matmul_precision()
    _set_flags("highest", False)
    for where in before:
        _set_precision(where, "ieee")
    try:
        yield
    finally:
        _set_flags(products, convolutions)
        for where, precision in before.items():
            _set_precision(where, precision)


def float32_precisions() -> dict[str, str]:
    """What float32 computes in now: 'ieee' (in full) or 'tf32', for matrix products and convolutions on a GPU."""
    if not _has_precisions():
        flags = (torch.get_float32_matmul_precision() != "highest", torch.backends.cudnn.allow_tf32)
        found = ["tf32" if flag else "ieee" for flag in flags]
    else:
        found = [_precision("cuda", operation) for operation in ("matmul", "conv")]
    return dict(zip(("matmul", "convolution"), ("ieee" if value == "none" else value for value in found), strict=True))


def changed_switches() -> dict[str, str]:
    """torch's other switches that change numbers and are not as torch sets them, by name: somebody's to set."""
    values = {name: read() for name, (read, default) in _SWITCHES.items() if read() != default}
    return {name: str(value) for name, value in values.items()}


def _has_precisions() -> bool:
    return hasattr(torch.backends, "fp32_precision")  # from torch 2.9


def _precision(backend: str, operation: str) -> str:
    found: str = torch._C._get_fp32_precision_getter(backend, operation)
    return found


def _set_precision(where: tuple[str, str], precision: str) -> None:
    torch._C._set_fp32_precision_setter(*where, precision)


def _set_flags(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions

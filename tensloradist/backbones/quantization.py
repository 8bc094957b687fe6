"""Frozen linear layers in 8 or 4 bits, by bitsandbytes, as in QLoRA (arXiv 2305.14314).

The classification head, the prediction of tokens and the embeddings keep their precision. A quantised backbone is
another backbone: it has another identity, and an update cannot be merged into it. It is quantised on the CPU, where it
is loaded, and then moved, so that its bits, and the hash of them in an adapter file, are the same everywhere.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tensloradist.backbones.base import family_of
from tensloradist.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn


def quantize(model: nn.Module, quantization: str) -> nn.Module:
    """Replace every linear layer of the backbone by its quantised form, one after the other, in place.

    Args:
        model: a loaded float32 model of a registered family.
        quantization: int8 (LLM.int8, arXiv 2208.07339) or nf4 (the 4-bit normal float of QLoRA, blocks of 64).

    Raises:
        UserError: bitsandbytes is not installed, or cannot quantise a layer of this size here.
    """
    import torch
    from torch import nn

    library = _library(quantization)
    from tensloradist.backbones.linear8bit import Linear8bit  # which imports the library

    # It warns for each layer and pass that activations are cast, which is what LLM.int8 does by definition.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    kept = (*family_of(model).head(model), "lm_head")
    layers = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and path not in kept and not path.startswith(tuple(f"{k}." for k in kept))
    ]
    for path in layers:
        layer: Any = model.get_submodule(path)
        sizes, bias = (layer.in_features, layer.out_features), layer.bias is not None
        with torch.device("meta"):
            if quantization == "int8":
                new: Any = Linear8bit(*sizes, bias=bias, has_fp16_weights=False)
            else:
                new = library.nn.Linear4bit(*sizes, bias=bias, quant_type="nf4")
        # Both quantise when their parameter is moved to a device.
        if quantization == "int8":
            new.weight = library.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            new.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=new)
            # On processors with AVX512-BF16 an evaluation would pack the weights for a kernel that computes in bfloat16
            # and has no gradient: scores would depend on the processor, and the next epoch would not train the layers
            # below.
            new.support_avx512bf16_for_cpu = False
        new.bias = layer.bias
        parent, _, name = path.rpartition(".")
        with _refusing(path, sizes, quantization, layer.weight.device):
            quantised = new.to(layer.weight.device).train(layer.training)
        setattr(model.get_submodule(parent), name, quantised)
    return model


def compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the layers in 4 bits compute in `dtype`, and dequantise their weights to it directly, not through float32.

    Otherwise a layer always computes in the type of its first input, which under autocast depends on the device.
    Layers in 8 bits compute in the type of each input.
    """
    if sys.modules.get("bitsandbytes") is None:
        return  # no layer here is quantised
    library = _library("nf4")
    for module in model.modules():
        if isinstance(module, library.nn.Linear4bit):
            module.compute_dtype = dtype
            module.compute_type_is_set = True
            module.weight.quant_state.dtype = dtype


def check_kernels(model: nn.Module, quantization: str, precision: str) -> None:
    """Compute with one quantised layer of each size on its device, with and without gradients.

    The sizes that a kernel supports depend on the device, the processor and the release of bitsandbytes.

    Args:
        precision: fp32 or bf16, that of the frozen layers.

    Raises:
        UserError: the kernels of this machine do not support a layer of this size.
    """
    import torch

    library = _library(quantization)
    kind = library.nn.Linear8bitLt if quantization == "int8" else library.nn.Linear4bit
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layers: dict[tuple[int, int, bool], tuple[str, Any]] = {}
    for path, module in model.named_modules():
        if isinstance(module, kind):
            layers.setdefault((module.in_features, module.out_features, module.bias is not None), (path, module))
    for (inputs, outputs, _), (path, layer) in layers.items():
        tried = copy.deepcopy(layer)  # a first pass leaves its precision and layout in the layer
        device = layer.weight.device
        with _refusing(path, (inputs, outputs), quantization, device):
            tried.eval()(torch.ones(2, inputs, device=device, dtype=dtype))
            x = torch.ones(2, inputs, device=device, dtype=dtype, requires_grad=True)
            (gradient,) = torch.autograd.grad(tried.train()(x).sum(), x)
            if not gradient.isfinite().all():
                raise ValueError("its gradient is not finite")


@contextmanager
def _refusing(path: str, sizes: tuple[int, int], quantization: str, device: Any) -> Iterator[None]:
    """Raise UserError with the layer and its size if bitsandbytes does not support it."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        other = "int8" if quantization == "nf4" else "nf4"
        raise UserError(
            f"backbone.quantization: {quantization}: the kernels of bitsandbytes here ({device.type}) do not "
            f"support {path.removesuffix('.base')}, a layer of {sizes[0]} inputs and {sizes[1]} outputs ({message}); "
            f"use {other}, another compute.device, or leave quantization out"
        ) from error


def _library(quantization: str) -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"backbone.quantization: {quantization} needs bitsandbytes, which cannot be imported here ({error}); "
            "install tensloradist[quantization], or leave quantization out"
        ) from error
    return bitsandbytes

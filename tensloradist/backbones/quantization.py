"""Frozen linear layers in 8 or 4 bits, by bitsandbytes where it is installed: QLoRA's way (arXiv 2305.14314).

The classification head, the prediction of tokens and the embeddings keep their precision. A quantised backbone is
another backbone: the run's identity says so, and an update cannot be merged into it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tensloradist.backbones.base import family_of
from tensloradist.errors import UserError

if TYPE_CHECKING:
    from torch import nn


def quantize(model: nn.Module, quantization: str) -> nn.Module:
    """Replace every linear layer of the backbone by its quantised form, one after the other, in place.

    Args:
        model: a loaded float32 model of a registered family.
        quantization: int8 (LLM.int8, arXiv 2208.07339) or nf4 (the 4-bit normal float of QLoRA, blocks of 64).

    Raises:
        UserError: bitsandbytes is not installed.
    """
    import torch
    from torch import nn

    library = _library(quantization)
    # With each layer and pass it says anew that activations are cast, as LLM.int8 does by its definition.
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
                new: Any = library.nn.Linear8bitLt(*sizes, bias=bias, has_fp16_weights=False)
            else:
                new = library.nn.Linear4bit(*sizes, bias=bias, quant_type="nf4")
        # Both quantise when their parameter is moved to a device.
        if quantization == "int8":
            new.weight = library.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            new.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=new)
        new.bias = layer.bias
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, new.to(layer.weight.device).train(layer.training))
    return model


def _library(quantization: str) -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise UserError(
            f"backbone.quantization: {quantization} needs bitsandbytes, which cannot be imported here ({error}); "
            "install tensloradist[quantization], or leave quantization out"
        ) from error
    return bitsandbytes

"""The arithmetic of a merge: an update is added to weights, rounded once, and refused if the weights cannot hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tensloradist.errors import UserError

if TYPE_CHECKING:
    from tensloradist.adapter.core import Pair
    from tensloradist.adapter.projection import AdaptedLinear


def with_update(
    path: str, wrapped: AdaptedLinear, pairs: Mapping[tuple[str, int], Pair]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, tensor, the same with its update) of the weight, and of the bias if it has an update.

    Args:
        path: of the wrapped layer in the model, for the names and the messages.
        pairs: what the adapter computes: (projection, layer) -> the two matrices of its update.

    Raises:
        UserError: the layer has no bias for the adapter's, or a sum exceeds the range of the tensor's type.
    """
    base = wrapped.base
    yield f"{path}.weight", base.weight, rounded_sum(f"{path}.weight", base.weight, wrapped.dense_update(pairs))
    update = wrapped.bias_update()
    if update is None:
        return
    if base.bias is None:
        raise UserError(f"{path}: the layer has no bias to merge the adapter's bias into")
    yield f"{path}.bias", base.bias, rounded_sum(f"{path}.bias", base.bias, update)


def rounded_sum(name: str, tensor: Tensor, update: Tensor) -> Tensor:
    """tensor + update, summed in float64 and rounded once to the tensor's type.

    Raises:
        UserError: the sum exceeds the range of that type, or is not a number.
    """
    total = tensor.double() + update.double()
    rounded = total.to(tensor.dtype)
    if not rounded.isfinite().all():
        raise UserError(
            f"{name}: with the update it reaches {float(total.abs().max()):.4g}, but the largest {tensor.dtype} is "
            f"{torch.finfo(tensor.dtype).max:.4g}; nothing was merged. Hold the model in a wider type (model.float()), "
            "or train at a lower learning rate if the update has diverged"
        )
    return rounded

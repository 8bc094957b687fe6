"""A training step on tensors without data (torch's FakeTensorMode): what it would compute and hold, without doing it.

The tensors say to be on a device, whose rules of autocast and choice of kernels then hold; shapes and operations are
the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tensloradist import backbones
from tensloradist.tasks.losses import example_losses


def fill(model: nn.Module, frozen_dtype: torch.dtype, device: str = "cpu") -> None:
    """Give every parameter and buffer of a meta model a tensor without data in turn; shared ones stay shared.

    To be called within FakeTensorMode.
    """
    made: dict[int, Any] = {}

    def replaced(old: Tensor, make: Callable[[Tensor], Tensor]) -> Any:
        if id(old) not in made:
            frozen = isinstance(old, nn.Parameter) and not old.requires_grad and old.is_floating_point()
            made[id(old)] = make(torch.empty(old.shape, dtype=frozen_dtype if frozen else old.dtype, device=device))
        return made[id(old)]

    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                make = partial(nn.Parameter, requires_grad=parameter.requires_grad)
                module._parameters[name] = replaced(parameter, make)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = replaced(buffer, lambda new: new)


def autocast(precision: str, device: str = "cpu") -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def empty_like(tensors: dict[str, Tensor], device: str = "cpu") -> dict[str, Tensor]:
    """Tensors of the same shapes and types, to be called within FakeTensorMode."""
    return {name: torch.empty(value.shape, dtype=value.dtype, device=device) for name, value in tensors.items()}


def forward_and_backward(
    model: nn.Module, num_labels: int, regression: bool, inputs: dict[str, Tensor], labels: Tensor, precision: str
) -> None:
    """One micro-batch of training, on the device of its labels."""
    with autocast(precision, labels.device.type):
        logits = backbones.family_of(model).logits(model, inputs).float()
    example_losses(logits, labels, num_labels, regression).sum().backward()

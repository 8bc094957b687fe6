"""Initial values: the general schemes of the family, and the distributions that a preset names for each parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tensloradist.factorizations.base import Factorization
from tensloradist.presets import Draw


def zero_of(factorization: Factorization, names: list[str], draws: Mapping[str, Draw] | None = None) -> str:
    """The parameter that starts at zero: a preset's, the factorisation's own, or a tensor train's last core."""
    if draws is not None:
        return next(name for name, draw in draws.items() if draw.kind == "zeros")
    return factorization.zero or names[-1]


def initialize(
    parameters: Mapping[str, nn.Parameter],
    factorization: Factorization,
    how: str,
    generator: torch.Generator,
    draws: Mapping[str, Draw] | None = None,
) -> None:
    """Draw one tensor's parameters in place, on the CPU and in float64, so that every dtype and device starts equal.

    `orthogonal` fills with (semi-)orthogonal matrices, `kaiming_uniform` as nn.init with a = √5, `normal` with
    standard deviation 1/√fan_in. A core of a tensor train is seen as the matrix (r_(i-1) d_i × r_i), so that
    `orthogonal` gives the left-orthogonal form. The factorisation's zero parameter is zero, and so is the update.
    `draws`, a preset's own distribution of each parameter, takes the place of `how`.
    """
    zero = zero_of(factorization, list(parameters), draws)
    for name, parameter in parameters.items():
        if parameter.is_meta:
            continue
        value = torch.zeros(parameter.shape, dtype=torch.float64)
        if draws is not None:
            _draw_original(value, draws[name], generator)
        elif name == "weights":
            value.fill_(1.0)
        elif name != zero:
            fan_in = factorization.fan_in(name, tuple(parameter.shape))
            _draw(value, how, fan_in, generator, train=factorization.zero is None)
        with torch.no_grad():
            parameter.copy_(value)


def _draw(value: Tensor, how: str, fan_in: int, generator: torch.Generator, *, train: bool) -> None:
    if how == "orthogonal":
        nn.init.orthogonal_(value.view(-1, value.shape[-1]) if train else value, generator=generator)
    elif how == "kaiming_uniform":
        bound = math.sqrt(1 / fan_in)  # gain √(2 / (1 + a²)) with a = √5, times √(3 / fan_in)
        value.uniform_(-bound, bound, generator=generator)
    else:
        value.normal_(0.0, 1 / math.sqrt(fan_in), generator=generator)


def _draw_original(value: Tensor, draw: Draw, generator: torch.Generator) -> None:
    if draw.kind == "ones":
        value.fill_(1.0)
    elif draw.kind == "orthogonal":
        nn.init.orthogonal_(value, generator=generator)
    elif draw.kind == "uniform":
        bound = draw.spread(tuple(value.shape))
        value.uniform_(-bound, bound, generator=generator)
    elif draw.kind == "normal":
        value.normal_(0.0, draw.spread(tuple(value.shape)), generator=generator)

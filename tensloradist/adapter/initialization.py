"""Initial values: the general schemes of the family, and a preset's own distribution of each parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tensloradist.errors import UserError
from tensloradist.factorizations import Factorization
from tensloradist.presets.members import Draw


def zero_of(factorization: Factorization, names: list[str], draws: Mapping[str, Draw] | None = None) -> str:
    """The parameter that starts at zero: a preset's, the factorisation's own, or the last one.

    Raises:
        UserError: the factorisation names a parameter that it does not have.
    """
    if draws is not None:
        return next(name for name, draw in draws.items() if draw.kind == "zeros")
    zero = factorization.zero or names[-1]
    if zero not in names:
        raise UserError(f"factorization: {factorization.name} starts {zero!r} at zero, but its parameters are {names}")
    return zero


def initialize(
    parameters: Mapping[str, nn.Parameter],
    factorization: Factorization,
    how: str | None,
    generator: torch.Generator,
    draws: Mapping[str, Draw] | None = None,
) -> None:
    """Draw one tensor's parameters in place, on the CPU and in float64, so that every dtype and device starts equal.

    `orthogonal` fills with (semi-)orthogonal matrices, `kaiming_uniform` as nn.init with a = √5, `normal` with
    standard deviation 1/√fan_in. The factorisation's zero parameter is zero, and so is the update. `draws`, a preset's
    own distribution of each parameter, replaces `how`.
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
            _draw(value, how, name, factorization, generator)
        with torch.no_grad():
            parameter.copy_(value)


def _draw(value: Tensor, how: str | None, name: str, factorization: Factorization, generator: torch.Generator) -> None:
    shape = tuple(value.shape)
    if how == "orthogonal":
        nn.init.orthogonal_(value.view(factorization.orthogonal_rows(shape), -1), generator=generator)
        return
    spread = 1 / math.sqrt(factorization.fan_in(name, shape))
    if how == "kaiming_uniform":
        value.uniform_(-spread, spread, generator=generator)  # gain √(2 / (1 + a²)) with a = √5, times √(3 / fan_in)
    else:
        value.normal_(0.0, spread, generator=generator)


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

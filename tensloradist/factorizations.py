"""Factorisations: how one tensor of updates is made of small parameters, and how those collapse to LoRA pairs.

Each factorisation states its parameters, their initialisation (with a zero update), and `pairs`, which turns the
parameters of T equally shaped tensors into low-rank pairs (A, B) for every projection and layer without building a
dense update. `FACTORIZATIONS` is a plain dict; a plugin adds an entry.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from tensloradist.errors import UserError

Parameters = dict[str, Tensor]


class Factorization(Protocol):
    """What a factorisation provides. Modes come in the official order: input, output | head_dim, heads, then
    projection and depth where stacked."""

    name: str
    zero: str
    """The parameter that starts at zero, so that the update does."""
    shared_rank: bool
    """Whether all modes have one and the same rank, as LoRA and CP."""

    def shapes(self, modes: tuple[str, ...], sizes: tuple[int, ...], ranks: Mapping[str, int]) -> dict[str, tuple]:
        """Parameter name -> shape. A mode's name is that mode's factor; 'core' is a core.

        Raises:
            UserError: ranks that this factorisation cannot have.
        """

    def fan_in(self, parameter: str, shape: tuple[int, ...]) -> int:
        """The fan-in of Kaiming-uniform initialisation."""

    def pairs(self, parameters: Parameters, head_layout: str) -> tuple[Tensor, Tensor]:
        """(A, B) with update[t, p, l] = A[t, p, l] @ B[t, p, l].

        Args:
            parameters: each stacked over T tensors, shape (T, *shape of one).
            head_layout: how (head_dim, heads) become output columns: aligned (head-major) or official.

        Returns:
            A of shape (T, P, L, d_in, k) and B of shape (T, P, L, k, d_out); P and L are 1 where not stacked, and where
            all projections or layers share it.
        """


def head_columns(columns: Tensor, head_layout: str) -> Tensor:
    """Merge the last two axes (head_dim, heads) into output features.

    aligned: feature o = head * head_dim + e, as the backbone's own layers; official: o = e * heads + head, the C-order
    unfolding of the official code, whose heads mode does not match the heads.
    """
    return (columns.transpose(-1, -2) if head_layout == "aligned" else columns).flatten(-2)


class Lora:
    """ΔW = U_input U_outputᵀ: LoRA (arXiv 2106.09685), one matrix for every projection of every layer.

    Kaiming-uniform here has fan-in d_in, as PEFT's, whose A is an nn.Linear(d_in, r).
    """

    name, zero, shared_rank = "lora", "output", True

    def shapes(self, modes: tuple[str, ...], sizes: tuple[int, ...], ranks: Mapping[str, int]) -> dict[str, tuple]:
        if modes != ("input", "output"):
            raise UserError(f"factorization 'lora' factorises matrices (input, output), not {list(modes)}; use tucker")
        if len(set(ranks.values())) != 1:
            raise UserError(f"ranks: {dict(ranks)} for lora, which has one rank for input and output")
        return {mode: (size, ranks[mode]) for mode, size in zip(modes, sizes, strict=True)}

    def fan_in(self, parameter: str, shape: tuple[int, ...]) -> int:
        return shape[0]

    def pairs(self, parameters: Parameters, head_layout: str) -> tuple[Tensor, Tensor]:
        return parameters["input"][:, None, None], parameters["output"].mT[:, None, None]


class Tucker:
    """ΔW = core ×_1 U_1 ×_2 … ×_n U_n (TensLoRA, arXiv 2509.19391): factors U_i (d_i × r_i), core (r_1 × … × r_n)."""

    name, zero, shared_rank = "tucker", "core", False

    def shapes(self, modes: tuple[str, ...], sizes: tuple[int, ...], ranks: Mapping[str, int]) -> dict[str, tuple]:
        factors: dict[str, tuple] = {mode: (size, ranks[mode]) for mode, size in zip(modes, sizes, strict=True)}
        return {**factors, "core": tuple(ranks[mode] for mode in modes)}

    def fan_in(self, parameter: str, shape: tuple[int, ...]) -> int:
        return shape[-1]  # nn.init's own for a (d_i × r_i) matrix, as the official code calls it

    def pairs(self, parameters: Parameters, head_layout: str) -> tuple[Tensor, Tensor]:
        """A = U_input and B = G(p, l) V_outᵀ, or A = U_input G(p, l) where the output side has the smaller rank."""
        core, left = parameters["core"], parameters["input"]
        tensors = core.shape[0]
        # (T, r_in, r_out…, [r_p], [r_l]) -> (T, P, L, r_in, r_out…): small modes first, while the core is smallest.
        if "depth" in parameters:
            core = torch.einsum("t...l,tnl->tn...", core, parameters["depth"])
        else:
            core = core[:, None]
        if "projection" in parameters:
            core = torch.einsum("tn...p,tmp->tmn...", core, parameters["projection"])
        else:
            core = core[:, None]
        batch, rank_in = core.shape[:3], core.shape[3]
        if "heads" in parameters:
            out = math.prod(core.shape[4:])
            if out < rank_in:
                both = torch.einsum("tde,thg->tegdh", parameters["head_dim"], parameters["heads"])
                right = head_columns(both, head_layout).reshape(tensors, 1, 1, out, -1)
            else:
                columns = torch.einsum("tmnxeg,thg->tmnxeh", core, parameters["heads"])
                columns = torch.einsum("tmnxeh,tde->tmnxdh", columns, parameters["head_dim"])
                right = head_columns(columns, head_layout)
        else:
            out = core.shape[4]
            if out < rank_in:
                right = parameters["output"].mT[:, None, None]
            else:
                right = core @ parameters["output"].mT[:, None, None]
        if out < rank_in:
            return left[:, None, None] @ core.reshape(*batch, rank_in, out), right
        return left[:, None, None], right


FACTORIZATIONS: dict[str, Factorization] = {"lora": Lora(), "tucker": Tucker()}


def initialize(
    parameters: Mapping[str, nn.Parameter], factorization: Factorization, how: str, generator: torch.Generator
) -> None:
    """Draw one tensor's parameters in place, on the CPU and in float64, so that every dtype and device starts equal.

    `orthogonal` fills with (semi-)orthogonal matrices, `kaiming_uniform` as nn.init with a = √5, `normal` with
    standard deviation 1/√fan_in. The factorisation's `zero` parameter is zero, and so is the update.
    """
    for name, parameter in parameters.items():
        if parameter.is_meta:
            continue
        value = torch.zeros(parameter.shape, dtype=torch.float64)
        if name != factorization.zero:
            fan_in = factorization.fan_in(name, tuple(parameter.shape))
            if how == "orthogonal":
                nn.init.orthogonal_(value, generator=generator)
            elif how == "kaiming_uniform":
                bound = math.sqrt(1 / fan_in)  # gain √(2 / (1 + a²)) with a = √5, times √(3 / fan_in)
                value.uniform_(-bound, bound, generator=generator)
            else:
                value.normal_(0.0, 1 / math.sqrt(fan_in), generator=generator)
        with torch.no_grad():
            parameter.copy_(value)

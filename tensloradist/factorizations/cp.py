"""CP: an update as a sum of R rank-one tensors. One rank serves all modes."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from tensloradist.errors import UserError
from tensloradist.factorizations.base import Fold, Parameters, head_columns


class Cp:
    """ΔW = Σ_r u_1r ∘ u_2r ∘ … ∘ u_nr, factors U_i (d_i × R): the future work of TensLoRA (arXiv 2509.19391).

    A parameter called `weights` (R), where there is one, multiplies each rank-one tensor (CaRA's λ).
    """

    name = "cp"
    zero: str | None = "input"
    shared_rank = True
    folds = True

    def shapes(self, modes: tuple[str, ...], sizes: tuple[int, ...], ranks: Mapping[str, int]) -> dict[str, tuple]:
        if len(set(ranks.values())) != 1:
            raise UserError(f"ranks: {dict(ranks)} for cp, which has one rank for all modes {list(modes)}")
        return {mode: (size, ranks[mode]) for mode, size in zip(modes, sizes, strict=True)}

    def fan_in(self, parameter: str, shape: tuple[int, ...]) -> int:
        return shape[-1]  # nn.init's own for a (d_i × R) matrix, as the official code calls it

    def pairs(self, parameters: Parameters, head_layout: str, fold: Fold = None) -> tuple[Tensor, Tensor]:
        """A = U_input, B = diag(weights ∘ u_p ∘ u_l) V_outᵀ, V_out the Khatri-Rao product of the heads' factors."""
        left = parameters["input"][:, None, None]
        if "heads" in parameters:
            columns = torch.einsum("ter,thr->treh", parameters["head_dim"], parameters["heads"])
            right = head_columns(columns, head_layout)[:, None, None]
        else:
            right = parameters["output"].mT[:, None, None]
        weights = _component_weights(parameters)
        if weights is None:
            return left, right
        if fold == "left":
            return left * weights[..., None, :], right
        return left, weights[..., None] * right


def _component_weights(parameters: Parameters) -> Tensor | None:
    """What the slice (p, l) multiplies the rank-one tensors by, (T, P, L, R); None where all of it is 1."""
    axes = {"projection": 2, "block": 2, "depth": 1}
    found = [parameters[mode].unsqueeze(axis) for mode, axis in axes.items() if mode in parameters]
    if "weights" in parameters:
        found.append(parameters["weights"][:, None, None])
    return functools.reduce(torch.mul, found) if found else None

"""CP: an update as a sum of R rank-one tensors. One rank serves all modes."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tensloradist.factorizations.base import Factorization, Fold, Modes, Parameters, Sizes, head_columns

if TYPE_CHECKING:
    from torch import Tensor


class Cp(Factorization):
    """ΔW = Σ_r u_1r ∘ u_2r ∘ … ∘ u_nr with factors U_i (d_i × R): the future work of TensLoRA (arXiv 2509.19391).

    An optional parameter `weights` (R) multiplies each rank-one tensor (CaRA's λ).
    """

    name = "cp"
    zero = "input"
    initialization = "kaiming_uniform"
    shared_rank = True
    folds = True

    def shapes(self, modes: Modes, sizes: Sizes, ranks: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        return {mode: (size, ranks[mode]) for mode, size in zip(modes, sizes, strict=True)}

    def pairs(self, parameters: Parameters, head_layout: str, fold: Fold = None) -> tuple[Tensor, Tensor]:
        """A = U_input, B = diag(weights ∘ u_p ∘ u_l) V_outᵀ, V_out the Khatri-Rao product of the heads' factors."""
        import torch

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
    """The factors by which slice (p, l) scales the rank-one tensors, (T, P, L, R); None if all of them are 1."""
    axes = {"projection": 2, "block": 2, "depth": 1}
    factors = [parameters[mode].unsqueeze(axis) for mode, axis in axes.items() if mode in parameters]
    if "weights" in parameters:
        factors.append(parameters["weights"][:, None, None])
    return functools.reduce(operator.mul, factors) if factors else None

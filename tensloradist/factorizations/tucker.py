"""LoRA's matrices, and Tucker: a core multiplied by a factor in every mode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tensloradist.factorizations.base import Factorization, Fold, Modes, Parameters, Sizes, head_columns

if TYPE_CHECKING:
    from torch import Tensor


class Lora(Factorization):
    """ΔW = U_input U_outputᵀ: LoRA (arXiv 2106.09685), one matrix for each projection of each layer.

    Kaiming-uniform has fan-in d_in, as in PEFT, whose A is an nn.Linear(d_in, r).
    """

    name = "lora"
    zero = "output"
    initialization = "kaiming_uniform"
    shared_rank = True
    stacks = False
    folds = True

    def caps(self, modes: Modes, sizes: Sizes) -> dict[str, int]:
        return dict(zip(modes, sizes, strict=True))

    def largest_rank(self, modes: Modes, sizes: Sizes) -> int:
        return min(sizes)

    def shapes(self, modes: Modes, sizes: Sizes, ranks: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        return {mode: (size, ranks[mode]) for mode, size in zip(modes, sizes, strict=True)}

    def fan_in(self, parameter: str, shape: tuple[int, ...]) -> int:
        return shape[0]

    def pairs(self, parameters: Parameters, head_layout: str, fold: Fold = None) -> tuple[Tensor, Tensor]:
        return parameters["input"][:, None, None], parameters["output"].mT[:, None, None]


class Tucker(Factorization):
    """ΔW = core ×_1 U_1 ×_2 … ×_n U_n (TensLoRA, arXiv 2509.19391): factors U_i (d_i × r_i), core (r_1 × … × r_n)."""

    name = "tucker"
    zero = "core"
    folds = True

    def shapes(self, modes: Modes, sizes: Sizes, ranks: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        factors = {mode: (size, ranks[mode]) for mode, size in zip(modes, sizes, strict=True)}
        return {**factors, "core": tuple(ranks[mode] for mode in modes)}

    def pairs(self, parameters: Parameters, head_layout: str, fold: Fold = None) -> tuple[Tensor, Tensor]:
        """A = U_input and B = G(p, l) V_outᵀ, or A = U_input G(p, l) if the output side has the smaller rank."""
        import torch

        core, left = parameters["core"], parameters["input"]
        tensors = core.shape[0]
        # (T, r_in, r_out…, [r_p], [r_l]) -> (T, P, L, r_in, r_out…): small modes first, to keep the core small.
        core = torch.einsum("t...l,tnl->tn...", core, parameters["depth"]) if "depth" in parameters else core[:, None]
        stacked = "projection" if "projection" in parameters else "block"
        core = torch.einsum("tn...p,tmp->tmn...", core, parameters[stacked]) if stacked in parameters else core[:, None]
        batch, rank_in, out = core.shape[:3], core.shape[3], math.prod(core.shape[4:])
        fold_left = out < rank_in if fold is None else fold == "left"
        if "heads" in parameters:
            if fold_left:
                both = torch.einsum("tde,thg->tegdh", parameters["head_dim"], parameters["heads"])
                right = head_columns(both, head_layout).reshape(tensors, 1, 1, out, -1)
            else:
                columns = torch.einsum("tmnxeg,thg->tmnxeh", core, parameters["heads"])
                columns = torch.einsum("tmnxeh,tde->tmnxdh", columns, parameters["head_dim"])
                right = head_columns(columns, head_layout)
        elif fold_left:
            right = parameters["output"].mT[:, None, None]
        else:
            right = core @ parameters["output"].mT[:, None, None]
        if fold_left:
            return left[:, None, None] @ core.reshape(*batch, rank_in, out), right
        return left[:, None, None], right

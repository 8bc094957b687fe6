"""The tensor train: an update as a chain of cores, joined by bonds whose dimensions are the ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tensloradist.factorizations.base import Factorization, Fold, Modes, Parameters, Sizes, times_shared

if TYPE_CHECKING:
    from torch import Tensor

    from tensloradist.rank_search import Ranks, RankSearch

_OUTPUTS = ("output", "head_dim", "heads")
# The order of the cores for each head layout, in which the heads merge directly to output features.
_ORDER = {
    "aligned": ("input", "projection", "depth", "block", "heads", "head_dim", "output"),
    "official": ("input", "projection", "depth", "block", "head_dim", "heads", "output"),
}


class TensorTrain(Factorization):
    """ΔW[x_1, …, x_n] = G_1[:, x_1, :] G_2[:, x_2, :] … G_n[:, x_n, :], cores G_i (r_(i-1) × d_i × r_i), r_0 = r_n = 1.

    The future work of TensLoRA (arXiv 2509.19391); decomposition: Oseledets, 2011. The order of the modes matters. A
    bond is named after the mode on its left, so `ranks` names every mode except the last.
    """

    name = "tt"
    ordered = True
    folds = True
    in_cores = True
    ranks_belong_to = "bonds (named by the mode on their left)"

    def order(self, modes: Modes, head_layout: str) -> Modes:
        return tuple(mode for mode in _ORDER[head_layout] if mode in modes)

    def rank_names(self, modes: Modes) -> Modes:
        return modes[:-1]

    def caps(self, modes: Modes, sizes: Sizes) -> dict[str, int]:
        """Bond -> the product of the mode sizes on its smaller side."""
        sides = ((math.prod(sizes[:i]), math.prod(sizes[i:])) for i in range(1, len(sizes)))
        return dict(zip(self.rank_names(modes), map(min, sides), strict=True))

    def largest_rank(self, modes: Modes, sizes: Sizes) -> int:
        return max(self.caps(modes, sizes).values())

    def unfolding(self, modes: Modes, rank_name: str) -> Modes:
        return modes[: modes.index(rank_name) + 1]

    def solve(self, search: RankSearch, strategy: str) -> Ranks:
        """Bonds as near equal as the tolerance allows, under both strategies."""
        return search.near_equal()

    def shapes(self, modes: Modes, sizes: Sizes, ranks: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        bonds = [1, *(ranks[mode] for mode in modes[:-1]), 1]
        return {mode: (bonds[i], size, bonds[i + 1]) for i, (mode, size) in enumerate(zip(modes, sizes, strict=True))}

    def fan_in(self, parameter: str, shape: tuple[int, ...]) -> int:
        """The input core maps features to a bond; the other cores map bonds to bonds."""
        return shape[1] if parameter == "input" else shape[0]

    def orthogonal_rows(self, shape: tuple[int, ...]) -> int:
        """A core is drawn as the matrix (r_(i-1) d_i × r_i), which gives the left-orthogonal form."""
        return math.prod(shape[:-1])

    def pairs(self, parameters: Parameters, head_layout: str, fold: Fold = None) -> tuple[Tensor, Tensor]:
        """A = [w(p, l)] G_input [M(p, l)], B = [M(p, l)] G_out: the train cut at the smaller bond beside M.

        w and M are the products of the small cores left of the input and between input and output features. They are
        computed first, then multiplied with a core of features in one product for all slices.
        """
        modes = list(parameters)
        cores = parameters
        if modes.index("input") > min(modes.index(mode) for mode in _OUTPUTS if mode in modes):
            modes = modes[::-1]  # a train may be read from its other end
            cores = {mode: core.transpose(1, 3) for mode, core in parameters.items()}
        place = modes.index("input")
        first_output = min(modes.index(mode) for mode in _OUTPUTS if mode in modes)
        left = _input_side(cores, modes[:place])
        right = _output_side(cores, modes[first_output:], head_layout)
        middle = _product(cores, modes[place + 1 : first_output])
        if middle is None:
            return left, right
        rank_left, rank_right = middle.shape[-2:]
        if fold == "left" or (fold is None and rank_right < rank_left):
            return times_shared(middle.mT, left.mT).mT, right
        return left, times_shared(middle, right)


def _slices(core: Tensor, mode: str) -> Tensor:
    """The slices of a small core (T, r, n, r') as matrices, (T, P, L, r, r')."""
    return core.transpose(1, 2).unsqueeze(1 if mode == "depth" else 2)


def _product(cores: Parameters, modes: list[str]) -> Tensor | None:
    """The product of the small cores for every slice, (T, P, L, r, r'); None without small cores."""
    product: Tensor | None = None
    for mode in modes:
        slices = _slices(cores[mode], mode)
        product = slices if product is None else product @ slices
    return product


def _input_side(cores: Parameters, before: list[str]) -> Tensor:
    """G_input as (T, P, L, d_in, r), multiplied by the row vector of the small cores before it."""
    core = cores["input"]
    row = _product(cores, before)
    if row is None:
        return core[:, None]
    features = core.flatten(2)[:, None, None]
    return times_shared(row, features).unflatten(-1, core.shape[2:]).squeeze(3)


def _output_side(cores: Parameters, modes: list[str], head_layout: str) -> Tensor:
    """The cores from the first output core on, (T, P, L, r, d_out), contracted from the end of the train."""
    right: Tensor | None = None
    for mode in reversed(modes):
        core = cores[mode]
        if mode not in _OUTPUTS:
            slices = _slices(core, mode)
            right = slices if right is None else slices @ right
        elif right is None:
            right = core[..., 0][:, None, None]
        else:
            rows = core.flatten(1, 2)[:, None, None] @ right
            right = rows.unflatten(-2, core.shape[1:3]).flatten(-2)
    assert right is not None
    features = [mode for mode in modes if mode in _OUTPUTS]
    wanted = ["heads", "head_dim"] if head_layout == "aligned" else ["head_dim", "heads"]
    if len(features) == 2 and features != wanted:
        sizes = [cores[mode].shape[2] for mode in features]
        right = right.unflatten(-1, sizes).transpose(-1, -2).flatten(-2)
    return right

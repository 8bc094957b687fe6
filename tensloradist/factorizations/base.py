"""What a factorisation provides, and what all of them share: the order of head columns, products over all slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
Fold = Literal["left", "right"] | None


class Factorization(Protocol):
    """What a factorisation provides.

    Modes come in the official order: input, output | head_dim, heads, then projection and depth where stacked, or
    `block` where the two are fused into one mode. A tensor train's come in the order of its cores.
    """

    name: str
    zero: str | None
    """The parameter that starts at zero, so that the update does; None: the last one."""
    shared_rank: bool
    """Whether all modes have one and the same rank, as LoRA and CP."""
    folds: bool
    """Whether `pairs` knows `fold` and the fused `block` mode. A plugin may leave this out, which means False."""

    def shapes(self, modes: tuple[str, ...], sizes: tuple[int, ...], ranks: Mapping[str, int]) -> dict[str, tuple]:
        """Parameter name -> shape. A mode's name is that mode's factor; 'core' is a core.

        Raises:
            UserError: ranks that this factorisation cannot have.
        """

    def fan_in(self, parameter: str, shape: tuple[int, ...]) -> int:
        """The fan-in of Kaiming-uniform initialisation."""

    def pairs(self, parameters: Parameters, head_layout: str, fold: Fold = None) -> tuple[Tensor, Tensor]:
        """(A, B) with update[t, p, l] = A[t, p, l] @ B[t, p, l].

        Args:
            parameters: each stacked over T tensors, shape (T, *shape of one).
            head_layout: how (head_dim, heads) become output columns: aligned (head-major) or official.
            fold: which side takes what depends on the projection and layer, so that the other side is shared by all
                of them; None, which is all that unfused tensors ask for, leaves it to the factorisation.

        Returns:
            A of shape (T, P, L, d_in, k) and B of shape (T, P, L, k, d_out); P and L are 1 where not stacked, and where
            all projections or layers share it. A fused `block` mode takes the place of P.
        """


def head_columns(columns: Tensor, head_layout: str) -> Tensor:
    """Merge the last two axes (head_dim, heads) into output features.

    aligned: feature o = head * head_dim + e, as the backbone's own layers; official: o = e * heads + head, the C-order
    unfolding of the official code, whose heads mode does not match the heads.
    """
    return (columns.transpose(-1, -2) if head_layout == "aligned" else columns).flatten(-2)


def times_shared(slices: Tensor, shared: Tensor) -> Tensor:
    """(T, P, L, j, k) @ (T, 1, 1, k, d) as one product a tensor: broadcasting would copy `shared` for every slice."""
    if shared.shape[1:3] != (1, 1):
        return slices @ shared
    return torch.bmm(slices.flatten(1, 3), shared.flatten(0, 2)).unflatten(1, slices.shape[1:4])

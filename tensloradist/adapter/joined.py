"""Joining the pairs of a fused layer's projections into one pair, so that the layer computes two products in all.

With A = [A_q A_k A_v], B is block-diagonal. If the projections share A, B = [B_q B_k B_v]; if they share B, their
hidden features become rows one after another. The pairs of all layers are joined at once, so that the number of
operations does not grow with depth.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tensloradist.adapter.core import Pair

Rows = Sequence[Sequence[Tensor]]


class Layer(Protocol):
    """What this module asks of a wrapped layer: its index, its projections with their widths, and its dropout."""

    layer: int
    projections: tuple[str | None, ...]
    widths: tuple[int, ...]

    @property
    def drops_hidden(self) -> bool: ...


def with_joined(pairs: Mapping[tuple[str, int], Pair], layers: Iterable[Layer]) -> dict[tuple[str, int], Pair]:
    """The pairs, and the pair that each layer computes with, under the layer's `joined_name`.

    A joined pair is A of (input features, k) and B of (k, output features); or, where the layer's projections share B,
    A of (input features, P · k) and B of (k, output features of one projection).
    """
    fused: dict[_Kind, list[int]] = defaultdict(list)
    for layer in layers:
        if len(layer.projections) > 1:
            fused[_Kind(layer.projections, layer.widths, layer.drops_hidden)].append(layer.layer)
    joined = dict(pairs)
    for kind, indices in fused.items():
        name = joined_name(kind.projections)
        joined |= {(name, index): pair for index, pair in zip(indices, _joined(pairs, kind, indices), strict=True)}
    return joined


def joined_name(projections: Sequence[str | None]) -> str:
    """The name of a layer's pair: that of its projection, or of all of them."""
    return "+".join(projection or "" for projection in projections)


@dataclass(frozen=True)
class _Kind:
    """What layers whose pairs are joined at once have in common: their outputs, and whether dropout is between A and B.

    With such dropout each projection needs hidden features of its own.
    """

    projections: tuple[str | None, ...]
    widths: tuple[int, ...]
    drops_hidden: bool


def _joined(pairs: Mapping[tuple[str, int], Pair], kind: _Kind, indices: Sequence[int]) -> list[Pair]:
    adapted = [projection for projection in kind.projections if projection is not None]
    lefts = [[pairs[projection, index][0] for projection in adapted] for index in indices]
    rights = [[pairs[projection, index][1] for projection in adapted] for index in indices]
    if not kind.drops_hidden and all(map(_is_one, lefts)):
        lefts = [row[:1] for row in lefts]
        right = _in_each_layer(rights, lambda rows: _side_by_side([_among_zeros(row, kind) for row in rows]))
    elif all(map(_is_one, rights)) and len(adapted) == len(kind.projections):
        right = _in_each_layer([row[:1] for row in rights], _side_by_side)
    else:
        right = _in_each_layer(rights, lambda rows: _block_diagonal(rows, kind))
    return list(zip(_in_each_layer(lefts, _side_by_side), right, strict=True))


def _is_one(row: Sequence[Tensor]) -> bool:
    return all(matrix is row[0] for matrix in row)


def _in_each_layer(rows: Rows, build: Callable[[Rows], Sequence[Tensor]]) -> Sequence[Tensor]:
    """`build` of each layer's row; done once if all rows are the same, so that their gradients are one sum."""
    if len(rows) > 1 and all(map(_is_one, zip(*rows, strict=True))):
        return build(rows[:1])[0].expand(len(rows), -1, -1).unbind()
    return build(rows)


def _side_by_side(rows: Rows) -> Sequence[Tensor]:
    if all(len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    return _cut(torch.cat(list(itertools.chain(*rows)), dim=1), len(rows))


def _among_zeros(row: Sequence[Tensor], kind: _Kind) -> list[Tensor]:
    """The matrices side by side with zeros for the outputs that are not adapted."""
    matrices = iter(row)
    return [
        row[0].new_zeros(row[0].shape[0], width) if projection is None else next(matrices)
        for projection, width in zip(kind.projections, kind.widths, strict=True)
    ]


def _block_diagonal(rows: Rows, kind: _Kind) -> Sequence[Tensor]:
    """For each row of P matrices (k, width) one of (P · k, all outputs), zero outside of its blocks."""
    zeros = {width: rows[0][0].new_zeros(rows[0][0].shape[0], width) for width in set(kind.widths)}
    places = [place for place, projection in enumerate(kind.projections) if projection is not None]
    blocks = []
    for n, place in enumerate(places):
        outputs = [row[n] if at == place else zeros[width] for row in rows for at, width in enumerate(kind.widths)]
        blocks.append(torch.cat(outputs, dim=1))
    return _cut(torch.cat(blocks), len(rows))


def _cut(whole: Tensor, count: int) -> Sequence[Tensor]:
    """The whole cut into `count` equally wide matrices."""
    return whole.chunk(count, dim=1) if count > 1 else [whole]

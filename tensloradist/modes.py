"""Modes and groupings: the tensors of a grouping, and which slice of which tensor holds a projection's update.

A frozen Transformer has L attention layers with projections query, key, value (and optionally attention_output). A
grouping stacks their updates over heads (att), projections (qkv) and layers (depth); each dimension that it does not
stack multiplies the number of tensors. Source: TensLoRA (arXiv 2509.19391), table of groupings. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tensloradist.errors import UserError, unknown
from tensloradist.factorizations import DEFAULT_FACTORIZATION, factorization_named
from tensloradist.projections import FFN, FFN_CHUNKS, PROJECTIONS, QKV

if TYPE_CHECKING:
    from tensloradist.spec import AdapterSpec

OFFICIAL_REPEATS = 4  # the official code always averages key/value heads over this many query heads


@dataclass(frozen=True)
class Grouping:
    """Which of heads (att), projections (qkv) and layers (depth) are stacked into one tensor."""

    att: bool = False
    qkv: bool = False
    depth: bool = False


GROUPINGS: dict[str, Grouping] = {
    "att": Grouping(att=True),
    "qkv": Grouping(qkv=True),
    "depth": Grouping(depth=True),
    "att_qkv": Grouping(att=True, qkv=True),
    "att_depth": Grouping(att=True, depth=True),
    "qkv_depth": Grouping(qkv=True, depth=True),
    "att_qkv_depth": Grouping(att=True, qkv=True, depth=True),
}
UNGROUPED = Grouping()  # LoRA: a matrix for each projection of each layer


def grouping_named(name: str | None) -> Grouping:
    """The grouping with this name; None is LoRA's, which stacks nothing."""
    if name is None:
        return UNGROUPED
    if name not in GROUPINGS:
        raise unknown("grouping", name, GROUPINGS)
    return GROUPINGS[name]


@dataclass(frozen=True)
class AttentionShape:
    """The sizes of a backbone's attention projections.

    Attributes:
        d_in: input features of query, key and value (the residual width).
        d_out: output features of the query: heads x head_dim.
        heads: number of query heads; it must divide d_out.
        layers: number of attention layers.
        projections: the adapted projections, a subset of query, key, value, attention_output, fc1 and fc2; the last two
            are the matrices of a feed-forward layer with four times the residual width.
        kv_heads: key/value heads of grouped-query attention; None: as many as query heads.

    Raises:
        UserError: sizes that are not positive or do not divide.
    """

    d_in: int
    d_out: int
    heads: int
    layers: int
    projections: tuple[str, ...] = QKV
    kv_heads: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "projections", tuple(self.projections))
        for field in ("d_in", "d_out", "heads", "layers"):
            if getattr(self, field) < 1:
                raise UserError(f"{field}: {getattr(self, field)} is not a positive size")
        if self.d_out % self.heads:
            raise UserError(f"heads: {self.heads} heads do not divide d_out = {self.d_out}")
        if self.kv_heads is not None and (self.kv_heads < 1 or self.heads % self.kv_heads):
            raise UserError(f"kv_heads: {self.kv_heads} key/value heads do not divide {self.heads} query heads")
        if not self.projections or len(set(self.projections)) != len(self.projections):
            raise UserError(f"projections: {list(self.projections)} must name one projection or more, each only once")
        for projection in self.projections:
            if projection not in PROJECTIONS:
                raise unknown("projection", projection, PROJECTIONS)

    @property
    def head_dim(self) -> int:
        return self.d_out // self.heads

    def heads_of(self, projection: str) -> int:
        """The number of heads on the projection's head side: fewer for key and value under grouped-query attention."""
        return self.kv_heads or self.heads if projection in ("key", "value") else self.heads

    def widths(self, projection: str) -> tuple[int, int]:
        """(input features, output features) of the projection's linear layer."""
        if projection == "attention_output":
            return self.d_out, self.d_in
        if projection == "fc1":
            return self.d_in, FFN_CHUNKS * self.d_in
        if projection == "fc2":
            return FFN_CHUNKS * self.d_in, self.d_in
        return self.d_in, self.heads_of(projection) * self.head_dim


@dataclass(frozen=True)
class TensorLayout:
    """One tensor of a grouping: its modes in the factorisation's order, their sizes, and the projections and layers
    whose updates it holds."""

    modes: tuple[str, ...]
    sizes: tuple[int, ...]
    projections: tuple[str, ...]
    layers: tuple[int, ...]

    def __str__(self) -> str:
        return " × ".join(f"{mode} {size}" for mode, size in zip(self.modes, self.sizes, strict=True))

    def blocks(self, projection: str) -> list[tuple[int, ...]]:
        """The slices of the fused `block` mode that hold a projection's update, per layer: one, or one per FFN chunk.

        Blocks are layer-major, in the order of the projections: 12 l + {q, k, v, o, 4 × fc1, 4 × fc2}, as in FacT.
        """
        widths = [_chunks(p) for p in self.projections]
        before = sum(widths[: self.projections.index(projection)])
        firsts = (layer * sum(widths) + before for layer in range(len(self.layers)))
        return [tuple(range(first, first + _chunks(projection))) for first in firsts]


def _chunks(projection: str) -> int:
    return FFN_CHUNKS if projection in FFN else 1


class Arrangement:
    """All tensors of a grouping over a shape, and the place of each (projection, layer) in them.

    Tensors are ordered by projection, then by depth. The heads of attention_output lie on its input side, so a tensor
    that groups att holds the transpose of that update, and its `input` mode indexes the residual features.

    Args:
        fused: make projection and depth one mode, `block`. Under att, the matrices without heads on their output
            (attention_output, fc1, fc2) then form a tensor of their own, as in CaRA.
        factorization: the name of the factorisation of all tensors, which orders their modes.
        mode_order: an order of the modes that replaces the factorisation's.
        head_side: the features of every projection that the heads modes index: `own` (the side that has heads: the
            output of query, key and value, the input of attention_output), `output` or `input`.

    Raises:
        UserError: the combination has no tensor; the message gives the reason.
    """

    def __init__(
        self,
        grouping: str | None,
        shape: AttentionShape,
        head_layout: str = "aligned",
        *,
        factorization: str = DEFAULT_FACTORIZATION,
        fused: bool = False,
        mode_order: tuple[str, ...] | None = None,
        head_side: str = "own",
    ) -> None:
        self.grouping = grouping_named(grouping)
        self.shape = shape
        self.head_layout = head_layout
        self.factorization = factorization_named(factorization)
        self.fused, self.mode_order, self.head_side = fused, mode_order, head_side
        self._refuse_what_has_no_tensor(grouping or "lora")

    @classmethod
    def of(cls, spec: AdapterSpec, shape: AttentionShape) -> Arrangement:
        """The tensors of an adapter's specification."""
        if (spec.fused or spec.dropout_on == "hidden") and not factorization_named(spec.factorization).folds:
            raise UserError(
                f"factorization: {spec.factorization!r} supports neither fused: true nor dropout_on: hidden, because "
                "its `pairs` does not handle the fused mode or the folded side (`folds` is not True)"
            )
        try:
            return cls(
                spec.grouping,
                shape,
                spec.head_layout,
                factorization=spec.factorization or DEFAULT_FACTORIZATION,
                fused=spec.fused,
                mode_order=spec.mode_order,
                head_side=spec.head_side,
            )
        except UserError as error:
            if spec.method in ("tenslora", "lora"):
                raise
            raise UserError(f"{spec.method} does not fit this backbone: {error}") from None

    def _refuse_what_has_no_tensor(self, name: str) -> None:
        shape, grouped = self.shape, self.grouping
        if self.fused and not (grouped.qkv and grouped.depth):
            raise UserError(
                f"fused: grouping {name!r} does not stack both projection and depth; use one with qkv_depth"
            )
        self._refuse_unequal_widths(name)
        averaged = grouped.qkv and shape.kv_heads not in (None, shape.heads)
        averaged = averaged and any(p in ("key", "value") for p in shape.projections)
        if averaged and not any(self.shape.heads_of(p) == shape.heads for p in shape.projections):
            raise UserError(
                f"grouping {name!r} with projections {list(shape.projections)}: under grouped-query attention key and "
                "value are means over query heads, so query or attention_output must be stacked as well"
            )
        if averaged and self.head_layout == "official" and shape.heads != OFFICIAL_REPEATS * (shape.kv_heads or 1):
            raise UserError(
                f"head_layout 'official' averages over {OFFICIAL_REPEATS} query heads, but this backbone has "
                f"{shape.heads} query heads for {shape.kv_heads} key/value heads; use head_layout: aligned"
            )

    def _refuse_unequal_widths(self, name: str) -> None:
        shape, grouped = self.shape, self.grouping
        square = shape.d_in == shape.d_out
        mixed = "attention_output" in shape.projections and len(shape.projections) > 1
        if grouped.qkv and mixed and (not grouped.att or self.head_side != "own") and not square:
            raise UserError(
                f"grouping {name!r} cannot stack attention_output ({shape.d_out} × {shape.d_in}) with projections of "
                f"{shape.d_in} × {shape.d_out}: the shapes differ. Use an att grouping or omit attention_output"
            )
        if self.head_side == "input" and (not square or shape.kv_heads not in (None, shape.heads)):
            raise UserError(
                f"head_side 'input' splits the input features of every projection into heads, so all must be square, "
                f"but query is {shape.d_in} × {shape.d_out} with {shape.kv_heads or shape.heads} key/value heads"
            )
        wide = [projection for projection in shape.projections if projection in FFN]
        if wide and (grouped.att or grouped.qkv) and not self.fused:
            raise UserError(
                f"grouping {name!r} cannot stack {' and '.join(wide)} with attention projections: their widths differ. "
                "Use lora, or a method that fuses projection and depth and holds them in chunks (fact_tt, cara)"
            )
        if wide and self.fused and not grouped.att and not square and set(shape.projections) - set(FFN):
            raise UserError(
                f"projections: {' and '.join(wide)} have chunks of {shape.d_in} × {shape.d_in}, but the "
                f"attention projections are {shape.d_in} × {shape.d_out}, so they cannot share a tensor"
            )
        if self.fused and grouped.att and not square and set(shape.projections) - set(QKV):
            raise UserError(
                f"projections: the tensor of attention_output, fc1 and fc2 needs square matrices, but query is "
                f"{shape.d_in} × {shape.d_out}"
            )

    @cached_property
    def tensors(self) -> tuple[TensorLayout, ...]:
        projections, layers = self.shape.projections, tuple(range(self.shape.layers))
        if self.fused:
            with_heads = tuple(p for p in projections if p in QKV or not self.grouping.att)
            parts = [with_heads, tuple(p for p in projections if p not in with_heads)]
            return tuple(self._fused_layout(part, layers) for part in parts if part)
        projection_sets: Iterable[tuple[str, ...]]
        projection_sets = [projections] if self.grouping.qkv else [(p,) for p in projections]
        layer_sets = [layers] if self.grouping.depth else [(layer,) for layer in layers]
        return tuple(self._layout(ps, ls) for ps in projection_sets for ls in layer_sets)

    def _layout(self, projections: tuple[str, ...], layers: tuple[int, ...]) -> TensorLayout:
        shape, grouped = self.shape, self.grouping
        alone = projections[0] if not grouped.qkv else "query"  # a stacked tensor has the query's shape
        if grouped.att:
            sizes = {"input": shape.d_in, "head_dim": shape.head_dim, "heads": shape.heads_of(alone)}
        else:
            only_output = grouped.qkv and projections == ("attention_output",)
            widths = shape.widths("attention_output" if only_output else alone)
            sizes = dict(zip(("input", "output"), widths, strict=True))
        if grouped.qkv:
            sizes["projection"] = len(projections)
        if grouped.depth:
            sizes["depth"] = shape.layers
        return self._ordered(sizes, projections, layers)

    def _fused_layout(self, projections: tuple[str, ...], layers: tuple[int, ...]) -> TensorLayout:
        shape = self.shape
        if self.grouping.att and set(projections) <= set(QKV):
            sizes = {"input": shape.d_in, "head_dim": shape.head_dim, "heads": shape.heads}
        else:
            only_attention_output = set(projections) == {"attention_output"}
            narrow = shape.widths("attention_output" if only_attention_output else "query")
            square = (shape.d_in, shape.d_in)
            sizes = dict(zip(("input", "output"), square if set(projections) <= set(FFN) else narrow, strict=True))
        sizes["block"] = len(layers) * sum(_chunks(projection) for projection in projections)
        return self._ordered(sizes, projections, layers)

    def _ordered(self, sizes: dict[str, int], projections: tuple[str, ...], layers: tuple[int, ...]) -> TensorLayout:
        order = self.factorization.order(tuple(sizes), self.head_layout)
        if self.mode_order is not None:
            order = self.mode_order
            if sorted(order) != sorted(sizes):
                raise UserError(f"mode_order: {list(order)} must name each of the modes {list(sizes)} once")
            outputs = [order.index(mode) for mode in ("output", "head_dim", "heads") if mode in order]
            if min(outputs) < order.index("input") < max(outputs):
                raise UserError(f"mode_order: {list(order)}: input must not lie between heads and head_dim")
        return TensorLayout(tuple(order), tuple(sizes[mode] for mode in order), projections, layers)

    def is_transposed(self, projection: str) -> bool:
        """Whether the tensor holds the transpose of this projection's update."""
        if not self.grouping.att or self.head_side == "output":
            return False
        if self.fused:  # CaRA's second tensor holds fc2's chunks transposed, to match fc1's
            return projection == "fc2"
        return self.head_side == "input" or projection == "attention_output"

    def chunk_side(self, projection: str) -> str | None:
        """The side that an FFN matrix is cut on in its tensor, `input` or `output`; None for other projections."""
        if projection not in FFN or not self.fused:
            return None
        return "output" if projection == "fc1" or self.is_transposed(projection) else "input"

    def is_averaged(self, projection: str) -> bool:
        """Whether the update is the mean over the query heads that share this key/value head."""
        return self.grouping.qkv and self.shape.heads_of(projection) != self.shape.heads

    @property
    def modes(self) -> tuple[str, ...]:
        return self.tensors[0].modes

    @property
    def rank_names(self) -> tuple[str, ...]:
        """The keys of `ranks`: the modes of all tensors, or whatever else has ranks in the factorisation."""
        names = (name for layout in self.tensors for name in self.factorization.rank_names(layout.modes))
        return tuple(dict.fromkeys(names))

    def ranks_of(self, ranks: int | Mapping[str, int]) -> dict[str, int]:
        """Each rank by its name, from one integer for all or from a complete mapping.

        Raises:
            UserError: missing or unknown names, or ranks that the factorisation does not allow.
        """
        return self.factorization.ranks_of(ranks, self.rank_names)

"""Modes and groupings: which tensors a grouping consists of, and which slice of which tensor serves a projection.

A frozen Transformer has L attention layers with projections query, key, value (and optionally attention_output). A
grouping stacks their updates over heads (att), projections (qkv) and layers (depth); whatever it does not stack
multiplies the number of independent tensors. Source: TensLoRA (arXiv 2509.19391), table of groupings. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from tensloradist.errors import UserError, unknown

PROJECTIONS = ("query", "key", "value", "attention_output")
OFFICIAL_REPEATS = 4  # the official code averages key/value heads over this many query heads, whatever the model


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
UNGROUPED = Grouping()  # LoRA: a matrix for every projection of every layer


def grouping_named(name: str | None) -> Grouping:
    """The grouping of that name; None is LoRA's, which stacks nothing."""
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
        projections: the adapted ones, a subset of query, key, value, attention_output.
        kv_heads: key/value heads of grouped-query attention; None means as many as query heads.

    Raises:
        UserError: sizes that are not positive or do not divide.
    """

    d_in: int
    d_out: int
    heads: int
    layers: int
    projections: tuple[str, ...] = ("query", "key", "value")
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
            raise UserError(f"projections: {list(self.projections)} must name at least one, each once")
        for projection in self.projections:
            if projection not in PROJECTIONS:
                raise unknown("projection", projection, PROJECTIONS)

    @property
    def head_dim(self) -> int:
        return self.d_out // self.heads

    def heads_of(self, projection: str) -> int:
        """Heads on the projection's head side: fewer for key and value under grouped-query attention."""
        return self.kv_heads or self.heads if projection in ("key", "value") else self.heads

    def widths(self, projection: str) -> tuple[int, int]:
        """(input features, output features) of the projection's linear layer."""
        if projection == "attention_output":
            return self.d_out, self.d_in
        return self.d_in, self.heads_of(projection) * self.head_dim


@dataclass(frozen=True)
class TensorLayout:
    """One tensor of a grouping: its modes in the official order, their sizes, and whom it serves."""

    modes: tuple[str, ...]
    sizes: tuple[int, ...]
    projections: tuple[str, ...]
    layers: tuple[int, ...]

    def __str__(self) -> str:
        return " × ".join(f"{mode} {size}" for mode, size in zip(self.modes, self.sizes, strict=True))


class Arrangement:
    """All tensors of a grouping over a shape, and where each (projection, layer) is found in them.

    Tensors are ordered projection-major, then by depth. With attention_output the heads lie on its input side, so a
    tensor that groups att holds the transpose of that update, and its `input` mode the residual features.

    Raises:
        UserError: the combination has no tensor, with the reason.
    """

    def __init__(self, grouping: str | None, shape: AttentionShape, head_layout: str = "aligned") -> None:
        self.grouping = grouping_named(grouping)
        self.shape = shape
        self.head_layout = head_layout
        self._refuse_what_has_no_tensor(grouping or "lora")

    def _refuse_what_has_no_tensor(self, name: str) -> None:
        shape, grouped = self.shape, self.grouping
        mixed = "attention_output" in shape.projections and len(shape.projections) > 1
        if grouped.qkv and mixed and not grouped.att and shape.d_in != shape.d_out:
            raise UserError(
                f"grouping {name!r} cannot stack attention_output ({shape.d_out} × {shape.d_in}) with projections of "
                f"{shape.d_in} × {shape.d_out}: the shapes differ. Use an att grouping or leave attention_output out"
            )
        averaged = grouped.qkv and shape.kv_heads not in (None, shape.heads)
        averaged = averaged and any(p in ("key", "value") for p in shape.projections)
        if averaged and not any(self.shape.heads_of(p) == shape.heads for p in shape.projections):
            raise UserError(
                f"grouping {name!r} with projections {list(shape.projections)}: under grouped-query attention key and "
                "value are means over query heads, so the query or attention_output must be stacked too"
            )
        if averaged and self.head_layout == "official" and shape.heads != OFFICIAL_REPEATS * (shape.kv_heads or 1):
            raise UserError(
                f"head_layout 'official' averages over {OFFICIAL_REPEATS} query heads, but this backbone has "
                f"{shape.heads} query heads for {shape.kv_heads} key/value heads; use head_layout: aligned"
            )

    @cached_property
    def tensors(self) -> tuple[TensorLayout, ...]:
        projections, layers = self.shape.projections, tuple(range(self.shape.layers))
        projection_sets: Iterable[tuple[str, ...]]
        projection_sets = [projections] if self.grouping.qkv else [(p,) for p in projections]
        layer_sets = [layers] if self.grouping.depth else [(layer,) for layer in layers]
        return tuple(self._layout(ps, ls) for ps in projection_sets for ls in layer_sets)

    def _layout(self, projections: tuple[str, ...], layers: tuple[int, ...]) -> TensorLayout:
        shape, grouped = self.shape, self.grouping
        alone = projections[0] if not grouped.qkv else "query"  # a stacked tensor has the query's shape
        if grouped.att:
            modes, sizes = ["input", "head_dim", "heads"], [shape.d_in, shape.head_dim, shape.heads_of(alone)]
        else:
            only_output = grouped.qkv and projections == ("attention_output",)
            modes, sizes = ["input", "output"], list(shape.widths("attention_output" if only_output else alone))
        if grouped.qkv:
            modes.append("projection")
            sizes.append(len(projections))
        if grouped.depth:
            modes.append("depth")
            sizes.append(shape.layers)
        return TensorLayout(tuple(modes), tuple(sizes), projections, layers)

    def is_transposed(self, projection: str) -> bool:
        """Whether the tensor holds the transpose of this projection's update."""
        return self.grouping.att and projection == "attention_output"

    def is_averaged(self, projection: str) -> bool:
        """Whether the update is the mean over the query heads that share this key/value head."""
        return self.grouping.qkv and self.shape.heads_of(projection) != self.shape.heads

    @property
    def modes(self) -> tuple[str, ...]:
        return self.tensors[0].modes


def per_mode(ranks: int | Mapping[str, int], modes: tuple[str, ...]) -> dict[str, int]:
    """One rank for each mode, from one integer for all or from a mapping that names every mode.

    Raises:
        UserError: a mode without a rank, a name that is no mode of the tensor, or a rank below 1.
    """
    if isinstance(ranks, int):
        ranks = dict.fromkeys(modes, ranks)
    missing, extra = [m for m in modes if m not in ranks], [m for m in ranks if m not in modes]
    if missing or extra:
        what = [f"no rank for {missing}"] if missing else []
        what += [f"{extra} are no modes of it"] if extra else []
        raise UserError(f"ranks: {dict(ranks)} for a tensor with modes {list(modes)}: {'; '.join(what)}")
    for mode, rank in ranks.items():
        if rank < 1:
            raise UserError(f"ranks: rank {rank} of mode {mode!r} must be at least 1")
    return {mode: ranks[mode] for mode in modes}

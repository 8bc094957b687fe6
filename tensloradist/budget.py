"""Parameter budgets: closed-form counts, the isorank condition, and the isoparameter solver. No torch here.

Counts are of the adapter alone: the classification head is trained too, and never counted. Under isorank every mode
gets the LoRA baseline's rank, also where that exceeds the mode's size, as in the official counts; the solver never
exceeds a mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from tensloradist.errors import UserError, unknown
from tensloradist.modes import Arrangement, AttentionShape, TensorLayout, per_mode, rank_names
from tensloradist.presets import bias_projections, has_weights
from tensloradist.rank_search import SMALL_MODES, Ranks, RankSearch
from tensloradist.spec import REFERENCES, AdapterSpec

if TYPE_CHECKING:
    from tensloradist.factorizations import Factorization

STRATEGIES = ("balanced", "uniform")


def _sum_of_factors(layout: TensorLayout, ranks: Mapping[str, int]) -> int:
    return sum(size * ranks[mode] for mode, size in zip(layout.modes, layout.sizes, strict=True))


def _tensor_train(layout: TensorLayout, ranks: Mapping[str, int]) -> int:
    bonds = [1, *(ranks[mode] for mode in layout.modes[:-1]), 1]
    return sum(bonds[i] * size * bonds[i + 1] for i, size in enumerate(layout.sizes))


def _tucker(layout: TensorLayout, ranks: Mapping[str, int]) -> int:
    return _sum_of_factors(layout, ranks) + math.prod(ranks[mode] for mode in layout.modes)


# Parameters of one tensor. A factorisation that is not listed here (a plugin's) is counted from its `shapes`.
COUNTS: dict[str, Callable[[TensorLayout, Mapping[str, int]], int]] = {
    "lora": _sum_of_factors,
    "cp": _sum_of_factors,
    "tucker": _tucker,
    "tt": _tensor_train,
}


def _registered(factorization: str | None) -> Factorization:
    from tensloradist.factorizations import FACTORIZATIONS

    if factorization not in FACTORIZATIONS:
        raise unknown("factorization", factorization, FACTORIZATIONS)
    return FACTORIZATIONS[factorization]


def _from_shapes(factorization: str) -> Callable[[TensorLayout, Mapping[str, int]], int]:
    shapes = _registered(factorization).shapes
    return lambda layout, ranks: sum(math.prod(s) for s in shapes(layout.modes, layout.sizes, ranks).values())


def _counter(factorization: str | None) -> Callable[[TensorLayout, Mapping[str, int]], int]:
    return COUNTS.get(factorization or "") or _from_shapes(factorization or "")


def has_one_rank(adapter: AdapterSpec) -> bool:
    """Whether one rank serves all modes (LoRA, CP), so that no mode can be pinned; also where there is no adapter."""
    return adapter.method in REFERENCES or _has_shared_rank(adapter.factorization)


def _has_shared_rank(factorization: str | None) -> bool:
    if factorization in COUNTS:
        return factorization in ("lora", "cp")
    return _registered(factorization).shared_rank


def resolve_ranks(adapter: AdapterSpec, shape: AttentionShape) -> Ranks:
    """The rank of each mode, or of each bond of a tensor train; none for `full` and `head`.

    Raises:
        UserError: `ranks` does not name the modes of the grouping.
    """
    if adapter.method in REFERENCES:
        return {}
    bonds = adapter.factorization == "tt"
    return per_mode(adapter.ranks, Arrangement.of(adapter, shape).rank_names, bonds)


def count(adapter: AdapterSpec, shape: AttentionShape) -> int:
    """Parameters of the adapter: TensLoRA's formula, Σ d_i r_i (+ Π r_i for Tucker's core) over its tensors.

    Tensor trains: Σ r_(i-1) d_i r_i; CP: R Σ d_i. With a preset's weights and biases. 0 for `full` and `head`, which
    have no adapter.
    """
    if adapter.method in REFERENCES:
        return 0
    return _total(adapter, Arrangement.of(adapter, shape))(resolve_ranks(adapter, shape))


def _total(adapter: AdapterSpec, arrangement: Arrangement) -> Callable[[Mapping[str, int]], int]:
    """Ranks -> parameters of the whole adapter."""
    distinct, counter = _distinct(arrangement), _counter(adapter.factorization)
    shape = arrangement.shape
    weighted = len(arrangement.tensors) if has_weights(adapter.method) else 0
    biases = sum(shape.widths(p)[1] for p in bias_projections(adapter.method, shape.projections))

    def total(ranks: Mapping[str, int]) -> int:
        factors = sum(number * counter(layout, ranks) for layout, number in distinct)
        return factors + weighted * next(iter(ranks.values())) + biases

    return total


def surplus_ranks(adapter: AdapterSpec, shape: AttentionShape) -> str | None:
    """A sentence on ranks that exceed what their matrices or modes can have; None where there are none.

    One integer for all modes exceeds small modes by design (isorank), so it is held against the features alone.

    Raises:
        UserError: as `resolve_ranks`.
    """
    if adapter.method in REFERENCES:
        return None
    ranks, layouts = resolve_ranks(adapter, shape), _distinct(Arrangement.of(adapter, shape))
    caps = _caps(adapter.factorization, layouts)
    if isinstance(adapter.ranks, int) or _has_shared_rank(adapter.factorization):
        rank = next(iter(ranks.values()))
        largest = [_largest_rank(adapter.factorization, layout) for layout, _ in layouts]
        if rank <= min(largest):
            return None
        which = "the" if rank > max(largest) else "some of the"
        return (
            f"ranks: {rank} exceeds {min(largest)}, the largest that can matter for {which} adapted matrices; what is "
            "above it adds parameters alone"
        )
    surplus = {mode: caps[mode] for mode, rank in ranks.items() if rank > caps[mode]}
    if not surplus:
        return None
    what = ", ".join(f"{ranks[mode]} of {mode} exceeds {most}" for mode, most in surplus.items())
    return f"ranks: {what}, the largest that can matter; what is above it adds parameters alone"


def _largest_rank(factorization: str | None, layout: TensorLayout) -> int:
    """Of a tensor with one rank for all modes: of its slices, input × output features; of CP, of the whole tensor."""
    sizes = dict(zip(layout.modes, layout.sizes, strict=True))
    if factorization == "cp":
        return math.prod(layout.sizes) // max(layout.sizes)
    if factorization == "tt":
        return max(_caps(factorization, [(layout, 1)]).values())
    outputs = sizes["output"] if "output" in sizes else sizes["head_dim"] * sizes["heads"]
    return min(sizes["input"], outputs)


def lora_budget(shape: AttentionShape, rank: int) -> int:
    """Parameters of LoRA at that rank: Σ (d_in + d_out) r over projections and layers."""
    return rank * shape.layers * sum(sum(shape.widths(projection)) for projection in shape.projections)


def isorank(adapter: AdapterSpec, rank: int, shape: AttentionShape) -> AdapterSpec:
    """The same adapter with `rank` in every mode, or bond; `full` and `head`, which have none, as they are."""
    if adapter.method in REFERENCES:
        return adapter
    return adapter.model_copy(update={"ranks": rank})


def isoparameter(
    adapter: AdapterSpec,
    budget: int,
    shape: AttentionShape,
    strategy: str = "balanced",
    tolerance: float = 0.02,
    pinned: Mapping[str, int] | None = None,
) -> AdapterSpec:
    """The same adapter with mode ranks whose count is as near to `budget` as the strategy asks.

    `balanced`: projection, depth and heads at full size; input and output (or head_dim) as near equal as the tolerance
    allows. `uniform`: all modes as near equal as the tolerance allows (a mode at its full size counts as equal to any
    larger rank). The bonds of a tensor train are near equal under both, and CP and LoRA have one rank. Where nothing
    lies within the tolerance, the least multiple of it within which something does takes its place: look at the
    residual, `count / budget - 1`. `full` and `head` have no ranks, and are returned as they are.

    Args:
        budget: adapter parameters to match, usually `lora_budget`.
        tolerance: largest |residual|, a fraction.
        pinned: mode -> rank, for modes that are not to be solved for.

    Raises:
        UserError: an unknown strategy, or a pinned mode that the grouping lacks or whose size it exceeds.
    """
    if strategy not in STRATEGIES:
        raise unknown("strategy", strategy, STRATEGIES)
    if budget < 1:
        raise UserError(f"budget: {budget} parameters; it must be at least 1")
    if adapter.method in REFERENCES:
        return adapter
    pins = tuple(sorted((pinned or {}).items()))
    ranks = dict(_solve(adapter.model_copy(update={"ranks": 1}), shape, budget, strategy, tolerance, pins))
    same = set(ranks.values())
    return adapter.model_copy(update={"ranks": same.pop() if len(same) == 1 else ranks})


def _distinct(arrangement: Arrangement) -> list[tuple[TensorLayout, int]]:
    """One layout of each size, and how many tensors have it."""
    numbers: dict[tuple, int] = {}
    layouts: dict[tuple, TensorLayout] = {}
    for layout in arrangement.tensors:
        kind = layout.modes, layout.sizes
        numbers[kind] = numbers.get(kind, 0) + 1
        layouts.setdefault(kind, layout)
    return [(layouts[kind], number) for kind, number in numbers.items()]


@lru_cache(maxsize=4096)
def _solve(
    adapter: AdapterSpec,
    shape: AttentionShape,
    budget: int,
    strategy: str,
    tolerance: float,
    pins: tuple[tuple[str, int], ...],
) -> tuple[tuple[str, int], ...]:
    arrangement = Arrangement.of(adapter, shape)
    caps = _caps(adapter.factorization, _distinct(arrangement))
    pinned = dict(pins)
    for mode, rank in pinned.items():
        if mode not in caps:
            raise UserError(
                f"pinned: the {adapter.factorization} of grouping {adapter.grouping!r} has no rank {mode!r}; it has "
                f"no mode {mode!r}, or no bond after it. Its ranks are {list(caps)}"
            )
        if not 1 <= rank <= caps[mode]:
            raise UserError(f"pinned: rank {rank} of mode {mode!r} is not within 1..{caps[mode]}, the mode's size")
    if _has_shared_rank(adapter.factorization) and len(set(pinned.values())) > 1:
        raise UserError(f"pinned: {pinned}, but all modes of {adapter.factorization} share one rank; pin one of them")
    search = RankSearch(caps, pinned, _total(adapter, arrangement), budget, tolerance)
    if _has_shared_rank(adapter.factorization):
        best = search.nearest_equal(math.inf if adapter.factorization == "cp" else max(caps.values()))
    elif adapter.factorization == "tt":
        best = search.near_equal_bonds()
    elif strategy == "balanced":
        small: Ranks = {mode: caps[mode] for mode in SMALL_MODES if mode in caps}
        best = search.best([{**small, **pinned}], compared=[m for m in caps if m not in small and m not in pinned])
    else:
        compared = [mode for mode in caps if mode not in pinned]
        best = search.best(search.near_equal_small_modes(), compared)
        best = search.nearer_equal(best, compared) if compared else best
    return tuple((mode, best[mode]) for mode in caps)


def _caps(factorization: str | None, distinct: list[tuple[TensorLayout, int]]) -> Ranks:
    """The largest rank of each mode that can matter: its size; of a bond, the features on its smaller side."""
    caps: Ranks = {}
    for layout, _ in distinct:
        for i, name in enumerate(rank_names(factorization, layout.modes)):
            size = layout.sizes[i]
            if factorization == "tt":
                size = min(math.prod(layout.sizes[: i + 1]), math.prod(layout.sizes[i + 1 :]))
            caps[name] = min(caps.get(name, size), size)
    return caps

"""Parameter budgets: counts, the isorank condition, and the isoparameter solver. Imports no torch.

Counts cover the adapter only: the classification head is trained but not counted. Under isorank every mode has the LoRA
baseline's rank, even if it exceeds the mode's size, as in the official counts. The solver never assigns a mode's own
rank more than the mode's size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache

from tensloradist.errors import UserError, unknown
from tensloradist.factorizations import factorization_named
from tensloradist.factorizations.base import Modes, Sizes
from tensloradist.modes import Arrangement, AttentionShape
from tensloradist.presets.members import bias_projections, has_weights
from tensloradist.rank_search import Ranks, RankSearch
from tensloradist.spec import REFERENCES, AdapterSpec

STRATEGIES = ("balanced", "uniform")


def has_one_rank(adapter: AdapterSpec) -> bool:
    """Whether all modes share one rank (LoRA, CP), so that no mode can be pinned; also true without an adapter."""
    return adapter.method in REFERENCES or factorization_named(adapter.factorization).shared_rank


def resolve_ranks(adapter: AdapterSpec, shape: AttentionShape) -> Ranks:
    """The rank of each mode, or of each bond of a tensor train; empty for `full` and `head`.

    Raises:
        UserError: `ranks` does not name the modes of the grouping.
    """
    if adapter.method in REFERENCES:
        return {}
    return Arrangement.of(adapter, shape).ranks_of(adapter.ranks)


def count(adapter: AdapterSpec, shape: AttentionShape) -> int:
    """The adapter's parameters: its factorisation's count for each tensor, plus a preset's weights and biases.

    0 for `full` and `head`, which have no adapter.

    Raises:
        UserError: as `resolve_ranks`.
    """
    if adapter.method in REFERENCES:
        return 0
    arrangement = Arrangement.of(adapter, shape)
    return _total(adapter, arrangement)(arrangement.ranks_of(adapter.ranks))


def _total(adapter: AdapterSpec, arrangement: Arrangement) -> Callable[[Mapping[str, int]], int]:
    """A function from ranks to the parameters of the whole adapter."""
    distinct, counted = _distinct(arrangement), arrangement.factorization.count
    shape = arrangement.shape
    weighted = len(arrangement.tensors) if has_weights(adapter.method) else 0
    biases = sum(shape.widths(p)[1] for p in bias_projections(adapter.method, shape.projections))

    def total(ranks: Mapping[str, int]) -> int:
        factors = sum(number * counted(modes, sizes, ranks) for (modes, sizes), number in distinct.items())
        return factors + weighted * next(iter(ranks.values())) + biases

    return total


def surplus_ranks(adapter: AdapterSpec, shape: AttentionShape) -> str | None:
    """A note on ranks larger than their matrices or modes can use; None if there are none.

    A single integer for all modes exceeds small modes by design (isorank), so it is only compared with the features.

    Raises:
        UserError: as `resolve_ranks`.
    """
    if adapter.method in REFERENCES:
        return None
    arrangement = Arrangement.of(adapter, shape)
    ranks, factorization = arrangement.ranks_of(adapter.ranks), arrangement.factorization
    if isinstance(adapter.ranks, int) or factorization.shared_rank:
        rank = next(iter(ranks.values()))
        largest = [factorization.largest_rank(modes, sizes) for modes, sizes in _distinct(arrangement)]
        if rank <= min(largest):
            return None
        which = "the" if rank > max(largest) else "some of the"
        return (
            f"ranks: {rank} exceeds {min(largest)}, the largest useful rank for {which} adapted matrices; higher ranks "
            "only add parameters"
        )
    caps = _caps(arrangement)
    what = ", ".join(f"{rank} of {name} exceeds {caps[name]}" for name, rank in ranks.items() if rank > caps[name])
    return f"ranks: {what}, the largest useful rank; higher ranks only add parameters" if what else None


def lora_budget(shape: AttentionShape, rank: int) -> int:
    """The parameters of LoRA at this rank: Σ (d_in + d_out) r over projections and layers."""
    return rank * shape.layers * sum(sum(shape.widths(projection)) for projection in shape.projections)


def isorank(adapter: AdapterSpec, rank: int, shape: AttentionShape) -> AdapterSpec:
    """The same adapter with `rank` for every mode or bond; `full` and `head` have no ranks and are unchanged."""
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
    """The same adapter with mode ranks solved to match `budget` under a strategy.

    `balanced`: projection, depth and heads at full size; input and output (or head_dim) as equal as the tolerance
    allows. `uniform`: all modes as equal as the tolerance allows (a mode at its full size counts as equal to any larger
    rank). A factorisation may search differently (`Factorization.solve`): a tensor train's bonds are nearly equal under
    both strategies, and CP and LoRA have one rank.

    If no integer ranks lie within the tolerance, it is widened to the smallest multiple that admits some; compare the
    residual, `count / budget - 1`. `full` and `head` have no ranks and are returned unchanged.

    Args:
        budget: adapter parameters to match, usually `lora_budget`.
        tolerance: largest |residual|, a fraction.
        pinned: mode -> rank, for modes with a given rank.

    Raises:
        UserError: an unknown strategy, or a pinned mode that the grouping lacks or whose size the rank exceeds.
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


def _distinct(arrangement: Arrangement) -> Counter[tuple[Modes, Sizes]]:
    """(modes, sizes) -> the number of tensors that have them."""
    return Counter((layout.modes, layout.sizes) for layout in arrangement.tensors)


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
    caps, pinned, factorization = _caps(arrangement), dict(pins), arrangement.factorization
    for mode, rank in pinned.items():
        if mode not in caps:
            raise UserError(
                f"pinned: the {adapter.factorization} of grouping {adapter.grouping!r} has no rank {mode!r}; its ranks "
                f"are {list(caps)}"
            )
        if not 1 <= rank <= caps[mode]:
            raise UserError(f"pinned: rank {rank} of mode {mode!r} is not within 1..{caps[mode]}")
    if factorization.shared_rank and len(set(pinned.values())) > 1:
        raise UserError(f"pinned: {pinned}, but all modes of {adapter.factorization} share one rank; pin one of them")
    best = factorization.solve(RankSearch(caps, pinned, _total(adapter, arrangement), budget, tolerance), strategy)
    return tuple((mode, best[mode]) for mode in caps)


def _caps(arrangement: Arrangement) -> Ranks:
    """Rank name -> the largest rank that suits all tensors."""
    caps: Ranks = {}
    for modes, sizes in _distinct(arrangement):
        for name, most in arrangement.factorization.caps(modes, sizes).items():
            caps[name] = min(caps.get(name, most), most)
    return caps

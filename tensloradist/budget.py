"""Parameter budgets: closed-form counts, the isorank condition, and the isoparameter solver. No torch here.

Counts are of the adapter alone: the classification head is trained too, and never counted. Under isorank every mode
gets the LoRA baseline's rank, also where that exceeds the mode's size, as in the official counts; the solver never
exceeds a mode.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

from tensloradist.errors import UserError, unknown
from tensloradist.modes import Arrangement, AttentionShape, TensorLayout, per_mode
from tensloradist.spec import AdapterSpec

STRATEGIES = ("balanced", "uniform")
Ranks = dict[str, int]


def _sum_of_factors(layout: TensorLayout, ranks: Mapping[str, int]) -> int:
    return sum(size * ranks[mode] for mode, size in zip(layout.modes, layout.sizes, strict=True))


def _tucker(layout: TensorLayout, ranks: Mapping[str, int]) -> int:
    return _sum_of_factors(layout, ranks) + math.prod(ranks[mode] for mode in layout.modes)


# Parameters of one tensor. A factorisation that is not listed here (a plugin's) is counted from its `shapes`.
COUNTS: dict[str, Callable[[TensorLayout, Mapping[str, int]], int]] = {"lora": _sum_of_factors, "tucker": _tucker}


def _from_shapes(factorization: str) -> Callable[[TensorLayout, Mapping[str, int]], int]:
    from tensloradist.factorizations import FACTORIZATIONS

    if factorization not in FACTORIZATIONS:
        raise unknown("factorization", factorization, FACTORIZATIONS)
    shapes = FACTORIZATIONS[factorization].shapes
    return lambda layout, ranks: sum(math.prod(s) for s in shapes(layout.modes, layout.sizes, ranks).values())


def _counter(factorization: str | None) -> Callable[[TensorLayout, Mapping[str, int]], int]:
    return COUNTS.get(factorization or "") or _from_shapes(factorization or "")


def has_shared_rank(factorization: str | None) -> bool:
    """Whether all modes of this factorisation have one and the same rank."""
    if factorization in COUNTS:
        return factorization == "lora"
    from tensloradist.factorizations import FACTORIZATIONS

    return FACTORIZATIONS[factorization or ""].shared_rank


def resolve_ranks(adapter: AdapterSpec, shape: AttentionShape) -> Ranks:
    """The rank of each mode. Raises UserError where `ranks` does not name the modes of the grouping."""
    return per_mode(adapter.ranks, Arrangement(adapter.grouping, shape, adapter.head_layout).modes)


def count(adapter: AdapterSpec, shape: AttentionShape) -> int:
    """Parameters of the adapter: TensLoRA's formula, Σ d_i r_i (+ Π r_i for Tucker's core) over its tensors."""
    arrangement = Arrangement(adapter.grouping, shape, adapter.head_layout)
    ranks, counter = per_mode(adapter.ranks, arrangement.modes), _counter(adapter.factorization)
    return sum(number * counter(layout, ranks) for layout, number in _distinct(arrangement))


def lora_budget(shape: AttentionShape, rank: int) -> int:
    """Parameters of LoRA at that rank: Σ (d_in + d_out) r over projections and layers."""
    return rank * shape.layers * sum(sum(shape.widths(projection)) for projection in shape.projections)


def isorank(adapter: AdapterSpec, rank: int, shape: AttentionShape) -> AdapterSpec:
    """The same adapter with `rank` in every mode."""
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
    larger rank). Where nothing lies within the tolerance, the least multiple of it within which something does takes
    its place: look at the residual, `count / budget - 1`.

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
    pins = tuple(sorted((pinned or {}).items()))
    ranks = dict(
        _solve(adapter.factorization, adapter.grouping, adapter.head_layout, shape, budget, strategy, tolerance, pins)
    )
    same = set(ranks.values())
    return adapter.model_copy(update={"ranks": same.pop() if len(same) == 1 else ranks})


def _distinct(arrangement: Arrangement) -> list[tuple[TensorLayout, int]]:
    """One layout of each size, and how many tensors have it."""
    numbers: dict[tuple[int, ...], int] = {}
    layouts: dict[tuple[int, ...], TensorLayout] = {}
    for layout in arrangement.tensors:
        numbers[layout.sizes] = numbers.get(layout.sizes, 0) + 1
        layouts.setdefault(layout.sizes, layout)
    return [(layouts[sizes], number) for sizes, number in numbers.items()]


@lru_cache(maxsize=4096)
def _solve(
    factorization: str | None,
    grouping: str | None,
    head_layout: str,
    shape: AttentionShape,
    budget: int,
    strategy: str,
    tolerance: float,
    pins: tuple[tuple[str, int], ...],
) -> tuple[tuple[str, int], ...]:
    arrangement = Arrangement(grouping, shape, head_layout)
    distinct, counter = _distinct(arrangement), _counter(factorization)
    caps = {
        mode: min(dict(zip(layout.modes, layout.sizes, strict=True))[mode] for layout, _ in distinct)
        for mode in arrangement.modes
    }
    pinned = dict(pins)
    for mode, rank in pinned.items():
        if mode not in caps:
            raise UserError(f"pinned: the grouping {grouping!r} has no mode {mode!r}; its modes are {list(caps)}")
        if not 1 <= rank <= caps[mode]:
            raise UserError(f"pinned: rank {rank} of mode {mode!r} is not within 1..{caps[mode]}, the mode's size")

    def total(ranks: Mapping[str, int]) -> int:
        return sum(number * counter(layout, ranks) for layout, number in distinct)

    search = _Search(caps, pinned, total, budget, tolerance)
    if has_shared_rank(factorization):
        best = search.nearest_equal()
    elif strategy == "balanced":
        small: Ranks = {mode: caps[mode] for mode in ("projection", "depth", "heads") if mode in caps}
        best = search.best([{**small, **pinned}], compared=[m for m in caps if m not in small and m not in pinned])
    else:
        best = search.best(search.near_equal_small_modes(), compared=[m for m in caps if m not in pinned])
    return tuple((mode, best[mode]) for mode in arrangement.modes)


class _Search:
    """The search over integer mode ranks. Counts grow with every rank, which bisection relies on."""

    def __init__(
        self, caps: Ranks, pinned: Ranks, total: Callable[[Mapping[str, int]], int], budget: int, tolerance: float
    ) -> None:
        self.caps, self.pinned, self.total = caps, pinned, total
        self.budget, self.tolerance = budget, tolerance

    def residual(self, ranks: Mapping[str, int]) -> float:
        return abs(self.total(ranks) / self.budget - 1)

    def _largest(self, ranks: Ranks, mode: str, limit: float) -> int:
        """The largest rank of `mode` whose count is at most `limit`; 0 if even 1 exceeds it."""
        low, high = 0, self.caps[mode]
        while low < high:
            middle = (low + high + 1) // 2
            if self.total({**ranks, mode: middle}) <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def nearest_equal(self) -> Ranks:
        """All modes at one rank (capped at its size only where it is the smallest mode): the nearest to the budget."""
        top = max(self.caps.values()) if not self.pinned else max(self.pinned.values())
        if self.pinned:
            return dict.fromkeys(self.caps, top)
        low, high = 1, top
        while low < high:
            middle = (low + high + 1) // 2
            if self.total(dict.fromkeys(self.caps, middle)) <= self.budget:
                low = middle
            else:
                high = middle - 1
        candidates = [dict.fromkeys(self.caps, r) for r in (low, low + 1)]
        return min(candidates, key=self.residual)

    def near_equal_small_modes(self) -> list[Ranks]:
        """Small modes at r or r + 1 (within their size), for the r at which equal ranks just fit the budget."""
        small = [mode for mode in ("projection", "depth", "heads") if mode in self.caps and mode not in self.pinned]
        equal = 1
        while equal < max(self.caps.values()):
            if self.total({m: min(equal + 1, c) for m, c in self.caps.items()} | self.pinned) > self.budget:
                break
            equal += 1
        choices = [sorted({min(r, self.caps[m]) for r in (equal - 1, equal, equal + 1) if r > 0}) for m in small]
        return [{**dict(zip(small, ranks, strict=True)), **self.pinned} for ranks in itertools.product(*choices)]

    def best(self, starts: list[Ranks], compared: list[str]) -> Ranks:
        """The most equal completion (over the modes `compared`) within the tolerance, widened as far as needed."""
        completions = [ranks for start in starts for ranks in self._completions(start)]
        nearest = min(self.residual(ranks) for ranks in completions)
        accepted = nearest
        if self.tolerance:
            accepted = max(nearest, self.tolerance * math.ceil(nearest / self.tolerance), self.tolerance)
        fitting = [ranks for ranks in completions if self.residual(ranks) <= accepted]
        return min(fitting, key=lambda r: (self._spread(r, compared), self.residual(r), tuple(r.values())))

    def _spread(self, ranks: Ranks, compared: list[str]) -> int:
        """How far the smallest rank lies below the largest, beyond what the modes' sizes force."""
        largest = max((ranks[mode] for mode in compared), default=0)
        return max((min(largest, self.caps[mode]) - ranks[mode] for mode in compared), default=0)

    def _completions(self, start: Ranks) -> Iterator[Ranks]:
        """`start` with the large modes filled in: near the budget, and as near equal as the tolerance allows."""
        free = [mode for mode in self.caps if mode not in start]
        if not free:
            yield start
            return
        last = free[-1]
        for first in range(1, self.caps[free[0]] + 1) if len(free) == 2 else [None]:
            ranks = dict(start) if first is None else {**start, free[0]: first}
            low = max(1, self._largest(ranks, last, self.budget * (1 - self.tolerance)))
            high = max(1, self._largest(ranks, last, self.budget * (1 + self.tolerance)))
            equal = min(max(low, first or low), high)
            near = {first - 1, first, first + 1} if first is not None else set()
            for rank in sorted({low, min(low + 1, high), equal, high} | near):
                if 1 <= rank <= self.caps[last]:
                    yield {**ranks, last: rank}
            if first is not None and self.total({**ranks, last: 1}) > self.budget * (1 + self.tolerance):
                return

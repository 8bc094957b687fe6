"""The search for mode ranks whose parameters meet a budget, as near equal as a tolerance allows. No torch here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

_MOST_CANDIDATES = 20_000  # of ranks that are looked at
SMALL_MODES = ("projection", "depth", "block", "heads")
Ranks = dict[str, int]


class RankSearch:
    """The search over integer mode ranks. Counts grow with every rank, which bisection relies on.

    Args:
        caps: the largest rank of each mode that can matter.
        pinned: modes whose rank is given.
        total: ranks -> parameters.
        budget: parameters to match.
        tolerance: largest |residual|, a fraction.
    """

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

    def nearest_equal(self, limit: float) -> Ranks:
        """All modes at one rank up to `limit`: the nearest to the budget."""
        if self.pinned:
            return dict.fromkeys(self.caps, max(self.pinned.values()))
        low, high = 1, int(min(limit, self.budget))
        while low < high:
            middle = (low + high + 1) // 2
            if self.total(dict.fromkeys(self.caps, middle)) <= self.budget:
                low = middle
            else:
                high = middle - 1
        candidates = [dict.fromkeys(self.caps, r) for r in (low, low + 1)]
        return min(candidates, key=self.residual)

    def near_equal_bonds(self) -> Ranks:
        """A tensor train's bonds, as near equal as the tolerance allows, searched in widening distance of equal."""
        equal = self._largest_equal()
        free = [mode for mode in self.caps if mode not in self.pinned]
        best: Ranks = {}
        for width in (2, 4, 8, 16):
            if best and (2 * width + 2) ** len(free) > _MOST_CANDIDATES:
                break
            near = range(equal - width, equal + width + 2)
            choices = [sorted({max(1, min(r, self.caps[m])) for r in near}) for m in free]
            starts = [{**self.pinned, **dict(zip(free, ranks, strict=True))} for ranks in itertools.product(*choices)]
            best = self.best(starts, compared=free)
            if self.residual(best) <= self.tolerance:
                break
        return best

    def _largest_equal(self) -> int:
        """The largest rank at which all modes together (within their sizes) fit the budget; at least 1."""
        low, high = 1, max(self.caps.values())
        while low < high:
            middle = (low + high + 1) // 2
            if self.total({m: min(middle, c) for m, c in self.caps.items()} | self.pinned) <= self.budget:
                low = middle
            else:
                high = middle - 1
        return low

    def near_equal_small_modes(self) -> list[Ranks]:
        """Small modes at r or r + 1 (within their size), for the r at which equal ranks just fit the budget."""
        small = [mode for mode in SMALL_MODES if mode in self.caps and mode not in self.pinned]
        equal = self._largest_equal()
        choices = [sorted({min(r, self.caps[m]) for r in (equal - 1, equal, equal + 1) if r > 0}) for m in small]
        return [{**dict(zip(small, ranks, strict=True)), **self.pinned} for ranks in itertools.product(*choices)]

    def nearer_equal(self, known: Ranks, compared: list[str]) -> Ranks:
        """Ranks of a smaller spread than the known ones', or within the tolerance where those are not; else those.

        For each largest rank and spread, the modes lie in windows of that width, within their sizes.
        """
        fits = self.residual(known) <= self.tolerance
        looked_at = 0
        for spread in range(self._spread(known, compared) if fits else max(self.caps.values())):
            found: list[Ranks] = []
            for ranks in self._within(spread, compared):
                looked_at += 1
                if self.residual(ranks) <= self.tolerance:
                    found.append(ranks)
            if found:
                return min(found, key=lambda r: (self.residual(r), tuple(r.values())))
            if looked_at > _MOST_CANDIDATES:
                break
        return known

    def _within(self, spread: int, compared: list[str]) -> Iterator[Ranks]:
        """Ranks near the budget whose spread is at most this; of the last mode, the two nearest to the budget."""
        *others, last = compared
        for largest in range(self._largest_equal(), max(self.caps[mode] for mode in compared) + 1):
            tops = {mode: min(largest, self.caps[mode]) for mode in compared}
            lows = {mode: max(1, top - spread) for mode, top in tops.items()}
            if self.total(self.pinned | lows) > self.budget * (1 + self.tolerance):
                return
            for chosen in itertools.product(*(range(lows[m], tops[m] + 1) for m in others)):
                ranks = {**self.pinned, **dict(zip(others, chosen, strict=True))}
                below = min(max(self._largest(ranks, last, self.budget), lows[last]), tops[last])
                for rank in range(below, min(below + 1, tops[last]) + 1):
                    full = {**ranks, last: rank}
                    yield {mode: full[mode] for mode in self.caps}

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

"""Search for ranks whose parameter count matches a budget and that are as equal as a tolerance allows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

_MOST_CANDIDATES = 20_000  # combinations of ranks that a search examines
_MOST_COMPLETED = 2  # modes that `_completions` fills in
_SMALL_MODES = ("projection", "depth", "block", "heads")
Ranks = dict[str, int]


class RankSearch:
    """A search over integer ranks. Bisection relies on counts that grow with every rank.

    Args:
        caps: mode -> its largest useful rank.
        pinned: mode -> rank, for modes whose rank is given.
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

    def _largest(self, ranks_at: Callable[[int], Ranks], low: int, high: int, limit: float) -> int:
        """The largest r in low..high with at most `limit` parameters at `ranks_at(r)`; `low` if there is none."""
        while low < high:
            middle = (low + high + 1) // 2
            if self.total(ranks_at(middle)) <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _largest_of(self, mode: str, ranks: Ranks, limit: float) -> int:
        """The largest rank of `mode` whose count is at most `limit`; 0 if even 1 exceeds it."""
        return self._largest(lambda rank: {**ranks, mode: rank}, 0, self.caps[mode], limit)

    def nearest_equal(self) -> Ranks:
        """All modes at the one rank nearest to the budget."""
        if self.pinned:
            return dict.fromkeys(self.caps, max(self.pinned.values()))
        most = min(max(self.caps.values()), self.budget)
        low = self._largest(lambda rank: dict.fromkeys(self.caps, rank), 1, most, self.budget)
        candidates = [dict.fromkeys(self.caps, r) for r in (low, low + 1)]
        return min(candidates, key=self.residual)

    def balanced(self) -> Ranks:
        """Small modes at full size, and the others as equal as the tolerance allows."""
        given = {mode: self.caps[mode] for mode in _SMALL_MODES if mode in self.caps} | self.pinned
        compared = [mode for mode in self.caps if mode not in given]
        return self.near_equal(given) if len(compared) > _MOST_COMPLETED else self.best([given], compared)

    def uniform(self) -> Ranks:
        """All modes as equal as the tolerance allows; a mode at full size counts as equal to any larger rank."""
        compared = [mode for mode in self.caps if mode not in self.pinned]
        if len([mode for mode in compared if mode not in _SMALL_MODES]) > _MOST_COMPLETED:
            best = self.near_equal()
        else:
            best = self.best(self._near_equal_small_modes(), compared)
        return self._nearer_equal(best, compared) if compared else best

    def near_equal(self, given: Ranks | None = None) -> Ranks:
        """Ranks as equal as the tolerance allows, searched at growing distance from equal ranks.

        Args:
            given: the ranks that are fixed; None: the pinned ranks.
        """
        given = self.pinned if given is None else given
        equal = self._largest_equal(given)
        free = [mode for mode in self.caps if mode not in given]
        best: Ranks = {}
        for width in (2, 4, 8, 16):
            if best and (2 * width + 2) ** len(free) > _MOST_CANDIDATES:
                break
            near = range(equal - width, equal + width + 2)
            choices = [sorted({max(1, min(r, self.caps[m])) for r in near}) for m in free]
            starts = [{**given, **dict(zip(free, ranks, strict=True))} for ranks in itertools.product(*choices)]
            best = self.best(starts, compared=free)
            if self.residual(best) <= self.tolerance:
                break
        return best

    def _largest_equal(self, given: Ranks) -> int:
        """The largest rank at which all modes except the given ones (within their sizes) fit the budget; at least 1."""

        def ranks_at(rank: int) -> Ranks:
            return {mode: min(rank, cap) for mode, cap in self.caps.items()} | given

        return self._largest(ranks_at, 1, max(self.caps.values()), self.budget)

    def _near_equal_small_modes(self) -> list[Ranks]:
        """Small modes within 1 of the largest equal rank that fits the budget (and within their sizes)."""
        small = [mode for mode in _SMALL_MODES if mode in self.caps and mode not in self.pinned]
        equal = self._largest_equal(self.pinned)
        choices = [sorted({min(r, self.caps[m]) for r in (equal - 1, equal, equal + 1) if r > 0}) for m in small]
        return [{**dict(zip(small, ranks, strict=True)), **self.pinned} for ranks in itertools.product(*choices)]

    def _nearer_equal(self, known: Ranks, compared: list[str]) -> Ranks:
        """The known ranks, or better ones: with a smaller spread, or within the tolerance if the known are not.

        For each largest rank and spread, the modes lie in windows of that width, within their sizes.
        """
        fits = self.residual(known) <= self.tolerance
        examined = 0
        for spread in range(self._spread(known, compared) if fits else max(self.caps.values())):
            found: list[Ranks] = []
            for ranks in self._within(spread, compared):
                examined += 1
                if self.residual(ranks) <= self.tolerance:
                    found.append(ranks)
            if found:
                return min(found, key=lambda r: (self.residual(r), tuple(r.values())))
            if examined > _MOST_CANDIDATES:
                break
        return known

    def _within(self, spread: int, compared: list[str]) -> Iterator[Ranks]:
        """Ranks near the budget with at most this spread; the last mode takes the two ranks nearest to the budget."""
        *others, last = compared
        for largest in range(self._largest_equal(self.pinned), max(self.caps[mode] for mode in compared) + 1):
            tops = {mode: min(largest, self.caps[mode]) for mode in compared}
            lows = {mode: max(1, top - spread) for mode, top in tops.items()}
            if self.total(self.pinned | lows) > self.budget * (1 + self.tolerance):
                return
            for chosen in itertools.product(*(range(lows[m], tops[m] + 1) for m in others)):
                ranks = {**self.pinned, **dict(zip(others, chosen, strict=True))}
                below = min(max(self._largest_of(last, ranks, self.budget), lows[last]), tops[last])
                for rank in range(below, min(below + 1, tops[last]) + 1):
                    full = {**ranks, last: rank}
                    yield {mode: full[mode] for mode in self.caps}

    def best(self, starts: list[Ranks], compared: list[str]) -> Ranks:
        """The most equal completion (over the modes `compared`) within the tolerance, widened as needed."""
        completions = [ranks for start in starts for ranks in self._completions(start)]
        nearest = min(self.residual(ranks) for ranks in completions)
        accepted = nearest
        if self.tolerance:
            accepted = max(nearest, self.tolerance * math.ceil(nearest / self.tolerance), self.tolerance)
        fitting = [ranks for ranks in completions if self.residual(ranks) <= accepted]
        return min(fitting, key=lambda r: (self._spread(r, compared), self.residual(r), tuple(r.values())))

    def _spread(self, ranks: Ranks, compared: list[str]) -> int:
        """How far the smallest rank lies below the largest, apart from what the modes' sizes force."""
        largest = max((ranks[mode] for mode in compared), default=0)
        return max((min(largest, self.caps[mode]) - ranks[mode] for mode in compared), default=0)

    def _completions(self, start: Ranks) -> Iterator[Ranks]:
        """`start` with the large modes filled in: near the budget, and as equal as the tolerance allows."""
        free = [mode for mode in self.caps if mode not in start]
        if not free:
            yield start
            return
        last = free[-1]
        for first in range(1, self.caps[free[0]] + 1) if len(free) == 2 else [None]:
            ranks = dict(start) if first is None else {**start, free[0]: first}
            low = max(1, self._largest_of(last, ranks, self.budget * (1 - self.tolerance)))
            high = max(1, self._largest_of(last, ranks, self.budget * (1 + self.tolerance)))
            equal = min(max(low, first or low), high)
            near = {first - 1, first, first + 1} if first is not None else set()
            for rank in sorted({low, min(low + 1, high), equal, high} | near):
                if 1 <= rank <= self.caps[last]:
                    yield {**ranks, last: rank}
            if first is not None and self.total({**ranks, last: 1}) > self.budget * (1 + self.tolerance):
                return

"""What differences allow to conclude: the one classification behind the notes, the report's opening and `compare`.

Each difference is judged by its own seeds, so a row with failures does not affect the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from analysis.statistics.paired import Paired
from analysis.statistics.permutation import DRAWS, EXACT_UP_TO

SURE = 0.95  # least posterior probability at which two methods are called practically equivalent
Key = TypeVar("Key")


@dataclass(frozen=True)
class Verdicts(Generic[Key]):
    """Differences with enough seeds for their corrected test to reach 5 %, with too few, and without a test."""

    enough: list[tuple[Key, Paired]]
    few: list[tuple[Key, Paired]]
    untested: list[tuple[Key, Paired]]  # runs diverged

    @property
    def tested(self) -> list[tuple[Key, Paired]]:
        return self.enough + self.few

    @property
    def established(self) -> list[tuple[Key, Paired]]:
        return [item for item in self.tested if item[1].is_established]

    @property
    def equivalent(self) -> list[tuple[Key, Paired]]:
        """Within the region of practical equivalence with a probability of 95 %."""
        return [item for item in self.tested if (item[1].equivalence.probability or 0.0) >= SURE]


def verdicts(items: Iterable[tuple[Key, Paired]]) -> Verdicts[Key]:
    """Classify differences, keeping their order. Those of references, which have no family, are left out."""
    split: Verdicts[Key] = Verdicts([], [], [])
    for key, paired in items:
        if paired.untested:
            split.untested.append((key, paired))
        elif paired.p_holm is not None and paired.seeds_needed is not None:
            (split.enough if paired.n >= paired.seeds_needed else split.few).append((key, paired))
    return split


def seeds_of(items: Iterable[tuple[object, Paired]]) -> str:
    """The number of paired seeds: '3 seeds' or '2 to 10 seeds'."""
    numbers = {paired.n for _, paired in items}
    low, high = min(numbers), max(numbers)
    return f"{low if low == high else f'{low} to {high}'} seed{'s' if high > 1 else ''}"


def kind_of_test(items: Iterable[tuple[object, Paired]]) -> str:
    """The test's name: 'exact sign-flip test', or the Monte Carlo test for more than 16 seeds."""
    exact = {paired.n <= EXACT_UP_TO for _, paired in items}
    drawn = f"Monte Carlo sign-flip test, {DRAWS:,} draws"
    if exact == {False}:
        return drawn
    return "exact sign-flip test" + (f", above {EXACT_UP_TO} seeds {drawn}" if False in exact else "")

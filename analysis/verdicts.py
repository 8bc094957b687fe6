"""What can be said of compared differences: one split, which the notes, the opening and `compare` all speak from.

Whether a difference is established, or has too few seeds for that, is its own matter: one row with failures takes
nothing from the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from analysis.statistics.paired import Paired
from analysis.statistics.permutation import DRAWS, EXACT_UP_TO

LEVEL = 0.05
SURE = 0.95  # posterior probability from which a difference is called practically equivalent to none
Key = TypeVar("Key")


@dataclass(frozen=True)
class Verdicts(Generic[Key]):
    """Differences by what their test can say; `enough`: the corrected test can reach 5 % with their seeds."""

    enough: list[tuple[Key, Paired]]
    few: list[tuple[Key, Paired]]
    untested: list[tuple[Key, Paired]]  # runs diverged

    @property
    def tested(self) -> list[tuple[Key, Paired]]:
        return self.enough + self.few

    @property
    def established(self) -> list[tuple[Key, Paired]]:
        return [item for item in self.tested if is_established(item[1])]

    @property
    def equivalent(self) -> list[tuple[Key, Paired]]:
        """Within the region of practical equivalence with a probability of 95 %."""
        return [item for item in self.tested if (item[1].equivalence.probability or 0.0) >= SURE]


def verdicts(items: Iterable[tuple[Key, Paired]]) -> Verdicts[Key]:
    """The split of differences, in their order; those of no family (the references') are in none of its parts."""
    split: Verdicts[Key] = Verdicts([], [], [])
    for key, paired in items:
        if paired.untested:
            split.untested.append((key, paired))
        elif paired.p_holm is not None and paired.seeds_needed is not None:
            (split.enough if paired.n >= paired.seeds_needed else split.few).append((key, paired))
    return split


def is_established(paired: Paired | None) -> bool:
    """Whether the corrected test tells the difference from none."""
    return paired is not None and paired.p_holm is not None and paired.p_holm <= LEVEL


def span(items: Iterable[tuple[object, Paired]]) -> str:
    """'3 seeds', or '2 to 10 seeds': what differences are paired over."""
    numbers = {paired.n for _, paired in items}
    low, high = min(numbers), max(numbers)
    return f"{low if low == high else f'{low} to {high}'} seed{'s' if high > 1 else ''}"


def kind_of_test(items: Iterable[tuple[object, Paired]]) -> str:
    """'exact sign-flip test', and what it is above 16 seeds, where it is drawn."""
    exact = {paired.n <= EXACT_UP_TO for _, paired in items}
    drawn = f"Monte Carlo sign-flip test, {DRAWS:,} draws"
    if exact == {False}:
        return drawn
    return "exact sign-flip test" + (f", above {EXACT_UP_TO} seeds {drawn}" if False in exact else "")

"""Paired differences over seeds: effect, interval, exact test, equivalence.

The interval is always Student's t, also from ten seeds on, where means have BCa: differences of paired runs are nearly
symmetric, and there t keeps its coverage at every n (BCa is at 91 % with ten seeds; `make evidence` prints both).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.intervals import Interval, Values, t_intervals
from analysis.statistics.permutation import sign_flip_ps

MARGIN = 0.005  # half a point: the region of practical equivalence


@dataclass(frozen=True)
class Equivalence:
    """Whether a mean difference lies within ± margin.

    `p_tost`: two one-sided t tests (Schuirmann 1987). `probability`: the posterior of the mean difference under the
    reference prior, Student t(n − 1, mean, s/√n), within the region. Both are None where `undefined` says why.
    """

    margin: float
    p_tost: float | None
    probability: float | None
    undefined: str | None = None


@dataclass(frozen=True)
class Paired:
    """A method's difference to another over the seeds that both have; p is the sign-flip test's, exact to 16 seeds.

    `seeds_needed`: the seeds at which a corrected test over the `family` can reach 5 % at all. `untested`: why this is
    the difference of some seeds and no test of the methods, as where others diverged; then there is no p.
    """

    n: int
    effect: float
    spread: float | None  # standard deviation of the differences
    interval: Interval | None
    p: float | None
    equivalence: Equivalence
    p_holm: float | None = None
    seeds_needed: int | None = None
    family: int | None = None  # how many differences Holm's correction is over
    untested: str | None = None

    @property
    def half_width(self) -> float | None:
        return None if self.interval is None else self.interval.half_width


def paired_many(differences: Sequence[Values], margin: float = MARGIN) -> list[Paired]:
    """`Paired` of each sample of seed-by-seed differences (at least one value each), all at once."""
    found: dict[int, Paired] = {}
    lengths: dict[int, list[int]] = defaultdict(list)
    for place, sample in enumerate(differences):
        lengths[len(sample)].append(place)
    intervals = t_intervals(differences)
    for n, places in lengths.items():
        stacked = np.array([differences[place] for place in places])
        means, ps = stacked.mean(axis=1), sign_flip_ps(stacked)
        spreads = stacked.std(axis=1, ddof=1) if n > 1 else np.full(len(places), np.nan)
        # Differences that are equal on paper may differ in their last bits.
        spreads = np.where(np.ptp(stacked, axis=1) <= 1e-12 * np.abs(stacked).max(axis=1), 0.0, spreads)
        equivalences = _equivalences(means, spreads, n, margin)
        for place, mean, spread, p, same in zip(places, means, spreads, ps, equivalences, strict=True):
            known = float(spread) if n > 1 else None
            found[place] = Paired(n, float(mean), known, intervals[place], float(p), same)
    return [found[place] for place in range(len(differences))]


def paired(values: Values, baseline: Values, margin: float = MARGIN) -> Paired:
    """The paired difference values - baseline, seed by seed (at least one)."""
    return paired_many([values - baseline], margin)[0]


def _equivalences(means: Values, spreads: Values, n: int, margin: float) -> list[Equivalence]:
    from scipy import stats

    if n < 2:
        return [Equivalence(margin, None, None, "one seed has no spread")] * len(means)
    errors = np.where(spreads > 0, spreads, np.nan) / np.sqrt(n)
    below, above = (-margin - means) / errors, (margin - means) / errors
    tost = np.maximum(stats.t.cdf(below, n - 1), stats.t.sf(above, n - 1))
    inside = stats.t.cdf(above, n - 1) - stats.t.cdf(below, n - 1)
    return [
        Equivalence(margin, float(p), float(q))
        if spread > 0
        else Equivalence(margin, None, None, "all differences are equal (s = 0)")
        for spread, p, q in zip(spreads, tost, inside, strict=True)
    ]

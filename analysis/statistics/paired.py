"""Paired differences over seeds: effect, interval, exact test, equivalence.

The interval is always Student's t, even from ten seeds on, where means have BCa intervals: differences of paired runs
are nearly symmetric, so t keeps its coverage at every n (BCa covers 91 % with ten seeds; `make evidence` prints both).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.intervals import Estimate, Interval, Values, by_length, t_intervals
from analysis.statistics.permutation import sign_flip_ps
from analysis.statistics.power import LEVEL

MARGIN = 0.005  # half a point: the region of practical equivalence


@dataclass(frozen=True)
class Equivalence:
    """Whether a mean difference lies within ± margin.

    `p_tost`: two one-sided t tests (Schuirmann 1987). `probability`: the posterior of the mean difference under the
    reference prior, Student t(n − 1, mean, s/√n), within the region. Both are None if `undefined` says why.
    """

    margin: float
    p_tost: float | None
    probability: float | None
    undefined: str | None = None


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The difference of two methods over the seeds that both have.

    Attributes:
        effect: the mean difference; `spread` is the standard deviation of the differences.
        p: the sign-flip test's, exact up to 16 seeds; `p_holm` is corrected over `family` differences.
        seeds_needed: the least number of seeds with which the corrected test can reach 5 %.
        untested: why the difference covers only some seeds, such as divergence of the others; then p is None.
    """

    n: int
    effect: float
    spread: float | None
    interval: Interval | None
    p: float | None
    equivalence: Equivalence
    p_holm: float | None = None
    seeds_needed: int | None = None
    family: int | None = None
    untested: str | None = None

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.effect, self.interval)

    @property
    def is_established(self) -> bool:
        """Whether the corrected test distinguishes the difference from zero."""
        return self.p_holm is not None and self.p_holm <= LEVEL


def paired_many(differences: Sequence[Values], margin: float = MARGIN) -> list[Paired]:
    """The `Paired` of each sample of seed-by-seed differences (at least one value each), computed in one go."""
    results: dict[int, Paired] = {}
    intervals = t_intervals(differences)
    for n, places in by_length(differences).items():
        stacked = np.array([differences[place] for place in places])
        means, ps = stacked.mean(axis=1), sign_flip_ps(stacked)
        spreads = stacked.std(axis=1, ddof=1) if n > 1 else np.full(len(places), np.nan)
        # Mathematically equal differences may differ in their last bits.
        spreads = np.where(np.ptp(stacked, axis=1) <= 1e-12 * np.abs(stacked).max(axis=1), 0.0, spreads)
        equivalences = _equivalences(means, spreads, n, margin)
        for place, mean, spread, p, same in zip(places, means, spreads, ps, equivalences, strict=True):
            known = float(spread) if n > 1 else None
            results[place] = Paired(
                n=n, effect=float(mean), spread=known, interval=intervals[place], p=float(p), equivalence=same
            )
    return [results[place] for place in range(len(differences))]


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

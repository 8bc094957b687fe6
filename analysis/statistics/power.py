"""Power: the seeds that a corrected test needs, and the difference that a number of seeds can detect."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

POWER = 0.8
LEVEL = 0.05  # significance level of every test, after correction


def seeds_needed(rows: int) -> int:
    """The least n for which the smallest possible corrected p, rows · 2 / 2ⁿ, reaches 5 %."""
    n = 1
    while rows * 2 / 2**n > LEVEL:
        n += 1
    return n


def detectable(spread: float, n: int, rows: int = 1) -> float | None:
    """The difference that a paired t test over n seeds detects with 80 % power at 5 % / rows (Bonferroni).

    Args:
        spread: standard deviation of the paired differences.

    Returns:
        In the unit of `spread`; None below two seeds.
    """
    effect = _detectable_effect(n, rows)
    return None if effect is None else float(spread * effect)


@lru_cache(maxsize=4096)
def _detectable_effect(n: int, rows: int) -> float | None:
    """The effect in standard deviations. Equals statsmodels' solve_power, which does not converge for few seeds.

    The power of the t test is that of a normal test, averaged over the quantiles of the estimated spread.
    """
    from scipy import optimize, stats

    if n < 2:
        return None
    middles = (np.arange(4000) + 0.5) / 4000
    limits = stats.t.ppf(1 - LEVEL / rows / 2, n - 1) * np.sqrt(stats.chi2.ppf(middles, n - 1) / (n - 1))

    def missing(shift: float) -> float:
        return float((stats.norm.sf(limits - shift) + stats.norm.cdf(-limits - shift)).mean()) - POWER

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high) / np.sqrt(n))

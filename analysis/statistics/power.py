"""Power: how many seeds a corrected test needs at least, and what difference a number of seeds could have shown."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

POWER = 0.8


def seeds_needed(rows: int, level: float = 0.05) -> int:
    """The least n for which the smallest possible corrected p, rows · 2 / 2ⁿ, reaches the level."""
    n = 1
    while rows * 2 / 2**n > level:
        n += 1
    return n


def detectable(spread: float, n: int, rows: int = 1, level: float = 0.05) -> float | None:
    """The difference that a paired t test over n seeds finds with 80 % power, at level / rows (Bonferroni).

    Args:
        spread: standard deviation of the paired differences.

    Returns:
        In the unit of `spread`; None below two seeds.
    """
    effect = _detectable_effect(n, rows, level)
    return None if effect is None else float(spread * effect)


@lru_cache(maxsize=4096)
def _detectable_effect(n: int, rows: int, level: float) -> float | None:
    """In standard deviations; equals statsmodels' solve_power where that converges, which it does not at few seeds.

    The power of the t test is the normal one, averaged over the quantiles of the estimated spread.
    """
    from scipy import optimize, stats

    if n < 2:
        return None
    middles = (np.arange(4000) + 0.5) / 4000
    limits = stats.t.ppf(1 - level / rows / 2, n - 1) * np.sqrt(stats.chi2.ppf(middles, n - 1) / (n - 1))

    def missing(shift: float) -> float:
        return float((stats.norm.sf(limits - shift) + stats.norm.cdf(-limits - shift)).mean()) - POWER

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high) / np.sqrt(n))


def seeds_for(effect: float, spread: float, rows: int = 1, level: float = 0.05, most: int = 1000) -> int | None:
    """The seeds with which a difference like this would be found with 80 % power; None above `most`, or for effect 0.

    Never below what the sign-flip test needs to reach the level at all.
    """
    if effect == 0:
        return None
    least = max(2, seeds_needed(rows, level))
    if spread == 0:
        return least
    wanted = abs(effect) / spread

    def enough(n: int) -> bool:
        found = _detectable_effect(n, rows, level)
        return found is not None and found <= wanted

    if not enough(most):
        return None
    low, high = least - 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high

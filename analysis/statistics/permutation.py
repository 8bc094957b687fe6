"""The sign-flip permutation test of paired differences, exact up to 16 seeds, and Holm's correction."""

from __future__ import annotations

import itertools
from functools import lru_cache

import numpy as np

from analysis.statistics.intervals import Values

EXACT_UP_TO = 16  # seeds; above, a seeded sample of sign flips is drawn
DRAWS = 100_000


@lru_cache(maxsize=32)
def _signs(n: int) -> Values:
    """(flips, n) of ±1. Flipping all signs at once changes no |sum|, so half of the exact ones are enough."""
    if n <= EXACT_UP_TO:
        return np.array([(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=n - 1)])
    return np.random.default_rng(0).choice((1.0, -1.0), (DRAWS, n))


def sign_flip_ps(differences: Values) -> Values:
    """Two-sided p of mean difference 0 for each row of (rows, n): exact up to 16 seeds, else Monte Carlo.

    The test is exact where differences are symmetric about 0 under the null, as those of exchangeable runs are.
    """
    signs = _signs(differences.shape[1])
    ps = np.empty(len(differences))
    for row, values in enumerate(differences):
        # Sums that are equal on paper may differ in their last bits.
        reached = abs(values.sum()) - 1e-12 * max(1e-300, np.abs(values).sum())
        extreme = int((np.abs(signs @ values) >= reached).sum())
        exact = len(values) <= EXACT_UP_TO
        ps[row] = extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)
    return ps


def sign_flip_p(differences: Values) -> float:
    """As `sign_flip_ps`, of one sample."""
    return float(sign_flip_ps(np.atleast_2d(differences))[0])


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction over the rows of one column."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []

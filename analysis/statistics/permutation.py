"""The sign-flip permutation test of paired differences, exact up to 16 seeds, and Holm's correction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from analysis.statistics.intervals import Values

EXACT_UP_TO = 16  # seeds; above that, a seeded sample of sign flips is drawn
DRAWS = 100_000
_AT_ONCE = 64  # rows; bounds memory to 64 · draws floats


@lru_cache(maxsize=32)
def _signs(n: int) -> Values:
    """An array (flips, n) of ±1. Flipping all signs leaves |sum| unchanged, so half of the exact flips suffice."""
    if n <= EXACT_UP_TO:
        return np.array([(1.0, *rest) for rest in itertools.product((1.0, -1.0), repeat=n - 1)])
    return np.random.default_rng(0).choice((1.0, -1.0), (DRAWS, n))


def sign_flip_ps(differences: Values) -> Values:
    """Two-sided p of mean difference 0 for each row of (rows, n): exact up to 16 seeds, else Monte Carlo.

    The test is exact if differences are symmetric about 0 under the null, as those of exchangeable runs are.
    """
    n = differences.shape[1]
    signs = _signs(n)
    # Mathematically equal sums may differ in their last bits.
    reached = np.abs(differences.sum(axis=1)) - 1e-12 * np.abs(differences).sum(axis=1)
    ps = np.empty(len(differences))
    for start in range(0, len(differences), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        extreme = (np.abs(signs @ differences[part].T) >= reached[part]).sum(axis=0)
        ps[part] = extreme / len(signs) if n <= EXACT_UP_TO else (extreme + 1) / (len(signs) + 1)
    return ps


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of the p values of one family.

    The results equal statsmodels' multipletests, which spends a quarter of a second per call on collecting garbage.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]

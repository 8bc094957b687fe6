"""Compare two runs example by example from their predictions: McNemar's test, and a bootstrap of examples.

This tests whether these two trained models differ on the population of examples; it says nothing about other seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.statistics.intervals import Estimate, Interval, Method

RESAMPLES = 2_000
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Counts of the examples that each of two models gets right, and the exact two-sided p of McNemar's test."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p: float


def mcnemar(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> McNemar:
    """Exact McNemar's test of two models' hits on the same examples."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    table = np.array(
        [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    )
    p = float(test(table, exact=True).pvalue)
    (both, only_first), (only_second, neither) = table.tolist()
    return McNemar(both=both, only_first=only_first, only_second=only_second, neither=neither, p=min(1.0, p))


def bootstrap_difference(
    metric: Callable[[Array, Array], float], first: Array, second: Array, labels: Array
) -> Estimate:
    """metric(first) − metric(second) on the same examples, with the percentile interval of resampled examples.

    Args:
        metric: a function of (outputs, labels), whose first axes are examples. Draws with an undefined (NaN) value
            are left out.
    """
    value = metric(first, labels) - metric(second, labels)
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, len(labels), len(labels))
        draws.append(metric(first[chosen], labels[chosen]) - metric(second[chosen], labels[chosen]))
    defined = np.array(draws)[np.isfinite(draws)]
    if len(defined) < RESAMPLES / 2:
        return Estimate(float(value))
    low, high = np.quantile(defined, [0.025, 0.975])
    return Estimate(float(value), Interval(float(low), float(high), Method.BOOTSTRAP))

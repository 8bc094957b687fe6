"""Mean ranks over data sets with Friedman's test and Nemenyi's critical difference (Demšar 2006).

At least five data sets are needed; with fewer, the critical difference spans most of the range of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.statistics.intervals import Values
from analysis.statistics.power import LEVEL

LEAST_BLOCKS = 5


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Mean ranks of k methods over n data sets (1 is best).

    Two methods differ if their mean ranks are further apart than the critical difference; `share` is the critical
    difference as a fraction of the range of ranks, critical_difference / (k − 1).
    """

    names: tuple[str, ...]  # best first
    mean_ranks: tuple[float, ...]
    blocks: int
    friedman_p: float
    critical_difference: float
    share: float

    @property
    def groups(self) -> tuple[tuple[float, float], ...]:
        """(best, worst) mean rank of the maximal groups of methods within the critical difference."""
        return groups_within(self.mean_ranks, self.critical_difference)


def rank(names: list[str], scores: Values, data_sets: list[str]) -> Ranks | None:
    """Ranks of methods by their scores (methods, tasks); None below five data sets or two methods.

    Args:
        data_sets: the data set of each task. Tasks on the same data set are not independent, so they count once with
            their mean rank.
    """
    from scipy import stats

    distinct = list(dict.fromkeys(data_sets))
    if len(distinct) < LEAST_BLOCKS or len(names) < 2:
        return None
    by_task = stats.rankdata(-scores, axis=0)
    by_set = np.array([by_task[:, [d == name for d in data_sets]].mean(axis=1) for name in distinct])  # (sets, methods)
    k, n = len(names), len(distinct)
    p = float(stats.friedmanchisquare(*(-by_set.T)).pvalue) if k > 2 else _two(by_set)
    q = stats.studentized_range.ppf(1 - LEVEL, k, np.inf) / np.sqrt(2)
    difference = float(q * np.sqrt(k * (k + 1) / (6 * n)))
    means: Mapping[str, float] = dict(zip(names, map(float, by_set.mean(axis=0)), strict=True))
    order = sorted(names, key=lambda name: (means[name], names.index(name)))
    return Ranks(
        names=tuple(order),
        mean_ranks=tuple(means[name] for name in order),
        blocks=n,
        friedman_p=p,
        critical_difference=difference,
        share=difference / (k - 1),
    )


def groups_within(ranks: Sequence[float], difference: float) -> tuple[tuple[float, float], ...]:
    """(best, worst) of the maximal groups of ascending ranks that lie within a difference."""
    groups: list[tuple[int, int]] = []
    for start in range(len(ranks)):
        end = max(i for i in range(start, len(ranks)) if ranks[i] - ranks[start] <= difference)
        if end > start and (not groups or end > groups[-1][1]):
            groups.append((start, end))
    return tuple((ranks[start], ranks[end]) for start, end in groups)


def _two(ranks: Values) -> float:
    """For two methods, Friedman's test is the sign test."""
    from scipy import stats

    signs = np.sign(ranks[:, 0] - ranks[:, 1])
    decided = int((signs != 0).sum())
    return float(stats.binomtest(int((signs > 0).sum()), decided).pvalue) if decided else 1.0

"""Statistics over seeds: intervals, paired differences, exact permutation tests and their correction.

Seeds are the unit of replication: intervals cover the randomness of training (data order, head, adapter), not the
sampling of test examples. scipy and statsmodels do the work.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
EXACT_UP_TO = 16  # seeds; above, the sign-flip test draws a seeded sample
MONTE_CARLO_DRAWS = 100_000


def t_half_width(values: Values, confidence: float = 0.95) -> float | None:
    """Half the width of Student's t interval of the mean; None below two values, where there is none."""
    from scipy import stats

    n = len(values)
    if n < 2:
        return None
    return float(stats.t.ppf(0.5 + confidence / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))


def sign_flip_p(differences: Values) -> float:
    """Two-sided p of the sign-flip permutation test of mean difference 0: exact up to 16 seeds, else Monte Carlo."""
    n = len(differences)
    observed = abs(differences.sum())
    if n <= EXACT_UP_TO:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        signs = np.random.default_rng(0).choice((1.0, -1.0), (MONTE_CARLO_DRAWS, n))
    # Sums that are equal on paper may differ in their last bits.
    extreme = np.abs(signs @ differences) >= observed - 1e-12 * max(1.0, np.abs(differences).sum())
    return float(extreme.mean()) if n <= EXACT_UP_TO else float((extreme.sum() + 1) / (len(extreme) + 1))


@dataclass(frozen=True)
class Paired:
    """A method's difference to LoRA over the seeds that both have: effect, interval, exact p and Holm's p."""

    n: int
    effect: float
    half_width: float | None
    p: float
    p_holm: float | None = None


def paired(values: Values, baseline: Values) -> Paired:
    """The paired difference values - baseline, seed by seed (at least one)."""
    differences = values - baseline
    return Paired(len(differences), float(differences.mean()), t_half_width(differences), sign_flip_p(differences))


def holm(p_values: list[float]) -> list[float]:
    """Holm's correction over the rows of one column."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def seeds_needed(rows: int, level: float = 0.05) -> int:
    """The least n for which the smallest possible corrected p, rows · 2 / 2ⁿ, reaches the level."""
    n = 1
    while rows * 2 / 2**n > level:
        n += 1
    return n

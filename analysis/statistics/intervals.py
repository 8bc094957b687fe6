"""Intervals of means over seeds: Student's t, and from ten seeds on the BCa bootstrap.

BCa below ten seeds is too narrow: on normal scores its nominal 95 % cover 71 % at 3 seeds and 84 % at 5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
BOOTSTRAP_FROM = 10  # seeds; of a mean, and of each task where an interval is over tasks
RESAMPLES = 9_999
_BATCH = 999  # resamples at a time; fixed, since the draws depend on it


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, in the unit of the scores, and the method that made it: 't', 'BCa' or 'bootstrap'."""

    low: float
    high: float
    method: str

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; None where one value alone has none."""

    value: float
    interval: Interval | None


def t_intervals(samples: Sequence[Values], confidence: float = 0.95) -> list[Interval | None]:
    """Student's t interval of the mean of each sample; None below two values, where there is none."""
    from scipy import stats

    found: list[Interval | None] = [None] * len(samples)
    for n, places in _by_length(samples).items():
        if n < 2:
            continue
        stacked = np.array([samples[place] for place in places])  # (cells, n)
        means = stacked.mean(axis=1)
        half = stats.t.ppf(0.5 + confidence / 2, n - 1) * stacked.std(axis=1, ddof=1) / np.sqrt(n)
        equal = np.ptp(stacked, axis=1) == 0  # whose mean may round to another number than each of them
        means, half = np.where(equal, stacked[:, 0], means), np.where(equal, 0.0, half)
        for place, mean, width in zip(places, means, half, strict=True):
            found[place] = Interval(float(mean - width), float(mean + width), "t")
    return found


def mean_intervals(
    samples: Sequence[Values], bootstrap_from: int = BOOTSTRAP_FROM, confidence: float = 0.95
) -> list[Interval | None]:
    """The interval of the mean of each sample: t below `bootstrap_from` seeds, BCa from there on.

    A sample without spread has the t interval of no width; a bootstrap of it is not defined.
    """
    found = t_intervals(samples, confidence)
    for n, places in _by_length(samples).items():
        if n < bootstrap_from:
            continue
        spread = [place for place in places if np.ptp(samples[place]) > 0]
        if not spread:
            continue
        lows, highs = bca(np.array([samples[place] for place in spread]), confidence)
        for place, low, high in zip(spread, lows, highs, strict=True):
            found[place] = Interval(float(low), float(high), "BCa")
    return found


def bca(stacked: Values, confidence: float = 0.95, resamples: int = RESAMPLES) -> tuple[Values, Values]:
    """Lows and highs of the BCa bootstrap (Efron 1987) of the mean of each row of (cells, n).

    The draws are the same for each row, so that but for rounding a row's interval does not depend on its neighbours.
    """
    from scipy import stats

    parts = []
    for start in range(0, len(stacked), 256):  # memory: 256 · 999 · n floats
        part = stats.bootstrap(
            (stacked[start : start + 256],),
            np.mean,
            axis=-1,
            confidence_level=confidence,
            n_resamples=resamples,
            batch=_BATCH,
            vectorized=True,
            method="BCa",
            rng=np.random.default_rng(0),
        )
        parts.append(part.confidence_interval)
    return np.concatenate([part.low for part in parts]), np.concatenate([part.high for part in parts])


def _by_length(samples: Sequence[Values]) -> dict[int, list[int]]:
    places: dict[int, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        places[len(sample)].append(place)
    return places

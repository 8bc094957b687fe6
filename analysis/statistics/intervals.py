"""Intervals of means over seeds: Student's t, and from ten seeds on the BCa bootstrap.

BCa below ten seeds is too narrow: on normal scores its nominal 95 % cover 71 % at 3 seeds and 84 % at 5.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]
CONFIDENCE = 0.95
BOOTSTRAP_FROM = 10  # seeds; per task if the interval is over tasks
RESAMPLES = 9_999
_BATCH = 999  # resamples at a time; changing it changes the draws


class Method(StrEnum):
    """The kind of an interval. The value is its name in files; only this class decides how readers see it.

    Attributes:
        label: its name in a sentence.
        is_symmetric: whether it is shown as ± half its width; otherwise its ends are shown.
        use: when this kind is used, if not always.
    """

    label: str
    is_symmetric: bool
    use: str

    def __new__(cls, value: str, label: str, is_symmetric: bool = False, use: str = "") -> Method:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label, member.is_symmetric, member.use = label, is_symmetric, use
        return member

    T = "t", "Student's t", True
    BCA = "BCa", "BCa bootstrap", False, f"from {BOOTSTRAP_FROM} seeds on"
    BOOTSTRAP = "bootstrap", "percentile bootstrap"
    RANGE = "range", "smallest to largest value"


@dataclass(frozen=True)
class Interval:
    """An interval in the unit of the scores, of 95 % except for a range, and the method that produced it."""

    low: float
    high: float
    method: Method

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, if there is one."""

    value: float
    interval: Interval | None = None

    @property
    def low(self) -> float | None:
        return None if self.interval is None else self.interval.low

    @property
    def high(self) -> float | None:
        return None if self.interval is None else self.interval.high

    def scaled(self, factor: float) -> Estimate:
        """The estimate in another unit, times a positive factor."""
        if self.interval is None:
            return Estimate(factor * self.value)
        low, high = factor * self.interval.low, factor * self.interval.high
        return Estimate(factor * self.value, Interval(low, high, self.interval.method))


def t_intervals(samples: Sequence[Values]) -> list[Interval | None]:
    """Student's t interval of the mean of each sample; None for fewer than two values."""
    from scipy import stats

    intervals: list[Interval | None] = [None] * len(samples)
    for n, places in by_length(samples).items():
        if n < 2:
            continue
        stacked = np.array([samples[place] for place in places])  # (cells, n)
        means = stacked.mean(axis=1)
        half = stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1) * stacked.std(axis=1, ddof=1) / np.sqrt(n)
        equal = np.ptp(stacked, axis=1) == 0  # the mean of equal values may round differently
        means, half = np.where(equal, stacked[:, 0], means), np.where(equal, 0.0, half)
        for place, mean, width in zip(places, means, half, strict=True):
            intervals[place] = Interval(float(mean - width), float(mean + width), Method.T)
    return intervals


def mean_intervals(samples: Sequence[Values]) -> list[Interval | None]:
    """The interval of each sample's mean: Student's t below BOOTSTRAP_FROM seeds, BCa otherwise.

    A sample without spread has a t interval of zero width, because its bootstrap is undefined.
    """
    intervals = t_intervals(samples)
    for n, places in by_length(samples).items():
        spread = [place for place in places if n >= BOOTSTRAP_FROM and np.ptp(samples[place]) > 0]
        if not spread:
            continue
        lows, highs = bca(np.array([samples[place] for place in spread]))
        for place, low, high in zip(spread, lows, highs, strict=True):
            intervals[place] = Interval(float(low), float(high), Method.BCA)
    return intervals


def bca(stacked: Values, resamples: int = RESAMPLES) -> tuple[Values, Values]:
    """Lows and highs of the BCa bootstrap (Efron 1987) of the mean of each row of (cells, n).

    The draws are the same for each row, so a row's interval depends on its neighbours only through rounding.
    """
    from scipy import stats

    parts = []
    for start in range(0, len(stacked), 256):  # bounds memory to 256 · 999 · n floats
        part = stats.bootstrap(
            (stacked[start : start + 256],),
            np.mean,
            axis=-1,
            confidence_level=CONFIDENCE,
            n_resamples=resamples,
            batch=_BATCH,
            vectorized=True,
            method="BCa",
            rng=np.random.default_rng(0),
        )
        parts.append(part.confidence_interval)
    return np.concatenate([part.low for part in parts]), np.concatenate([part.high for part in parts])


def by_length(samples: Sequence[Values]) -> dict[int, list[int]]:
    """Length -> the places of the samples of that length."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, sample in enumerate(samples):
        places[len(sample)].append(place)
    return places

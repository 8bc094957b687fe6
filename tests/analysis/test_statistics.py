"""Statistics against scipy, brute force and the figures worked out by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.statistics.intervals import t_intervals
from analysis.statistics.paired import paired
from analysis.statistics.permutation import holm, sign_flip_p
from analysis.statistics.power import seeds_needed

scores = st.lists(st.floats(0, 1, allow_nan=False), min_size=2, max_size=8)


@given(scores)
def test_t_interval_equals_scipys(values):
    array = np.array(values)
    (interval,) = t_intervals([array])
    if stats.sem(array) == 0:
        assert interval.low == interval.high == array.mean()
        return
    low, high = stats.t.interval(0.95, len(array) - 1, array.mean(), stats.sem(array))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


def test_one_value_has_no_interval():
    assert t_intervals([np.array([0.5])]) == [None]


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=7))
def test_sign_flip_equals_enumeration(values):
    observed = abs(sum(values))
    flips = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    expected = sum(f >= observed for f in flips) / len(flips)
    assert sign_flip_p(np.array(values) / 100) == pytest.approx(expected)


def test_the_smallest_p_of_five_seeds_and_the_monte_carlo_above_sixteen():
    assert sign_flip_p(np.arange(1.0, 6.0)) == 0.0625
    big = np.random.default_rng(0).normal(0.3, 1, 20)
    assert sign_flip_p(big) == sign_flip_p(big)
    assert sign_flip_p(big) == pytest.approx(stats.ttest_1samp(big, 0).pvalue, abs=0.02)


def test_seeds_needed():
    assert [seeds_needed(m) for m in (1, 4, 7, 14, 21)] == [6, 8, 9, 10, 10]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_paired_difference():
    d = paired(np.array([0.8, 0.7, 0.9]), np.array([0.7, 0.7, 0.7]))
    assert (d.n, d.effect, d.p) == (3, pytest.approx(0.1), 0.5)
    assert d.half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)

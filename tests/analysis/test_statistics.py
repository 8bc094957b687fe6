"""Statistics against scipy, statsmodels, brute force and the figures worked out by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from analysis.statistics.aggregate import interquartile_mean, normalised, probability_of_improvement
from analysis.statistics.intervals import Estimate, mean_intervals, t_intervals
from analysis.statistics.paired import MARGIN, paired_many
from analysis.statistics.permutation import holm, sign_flip_ps
from analysis.statistics.power import detectable, seeds_needed
from analysis.statistics.predictions import bootstrap_difference, mcnemar
from analysis.statistics.ranks import rank

scores = st.lists(st.integers(0, 10**6).map(lambda millionths: millionths / 10**6), min_size=2, max_size=8)


@given(scores)
def test_t_interval_equals_scipys(values):
    array = np.array(values)
    (interval,) = t_intervals([array])
    if len(set(values)) == 1:
        assert (interval.low, interval.high) == pytest.approx((values[0], values[0]), abs=1e-12)
        return
    low, high = stats.t.interval(0.95, len(array) - 1, array.mean(), stats.sem(array))
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


def test_one_value_has_no_interval():
    assert t_intervals([np.array([0.5])]) == [None]
    assert mean_intervals([np.array([]), np.array([0.5])]) == [None, None]


def test_bca_from_ten_seeds_on_equals_scipys_and_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(1)
    samples = [rng.gamma(2, 0.1, n) for n in (9, 10, 10, 12)] + [np.full(10, 0.3)]
    found = mean_intervals(samples)
    assert [i.method for i in found] == ["t", "BCa", "BCa", "BCa", "t"] and found[-1].half_width == 0
    (alone,) = mean_intervals([samples[2]])
    assert (alone.low, alone.high) == pytest.approx((found[2].low, found[2].high), rel=1e-12)
    assert mean_intervals(samples) == found, "seeded"
    reference = stats.bootstrap((samples[1],), np.mean, n_resamples=20_000, rng=np.random.default_rng(7))
    low, high = reference.confidence_interval
    assert (found[1].low, found[1].high) == pytest.approx((low, high), rel=0.02)


def sign_flip_p(values):
    return sign_flip_ps(values[None])[0]


def paired(values, baseline, margin=MARGIN):
    return paired_many([values - baseline], margin)[0]


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=7))
def test_sign_flip_equals_enumeration(values):
    observed = abs(sum(values))
    flips = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    expected = sum(f >= observed for f in flips) / len(flips)
    assert sign_flip_p(np.array(values) / 100) == pytest.approx(expected)


def test_sign_flip_equals_scipys_permutation_test():
    values = np.random.default_rng(3).normal(0.2, 1, 9)
    reference = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(values) == pytest.approx(reference.pvalue)


def test_the_smallest_p_of_five_seeds_and_the_monte_carlo_above_sixteen():
    assert sign_flip_p(np.arange(1.0, 6.0)) == 0.0625
    big = np.random.default_rng(0).normal(0.3, 1, 20)
    assert sign_flip_p(big) == sign_flip_p(big)
    assert sign_flip_p(big) == pytest.approx(stats.ttest_1samp(big, 0).pvalue, abs=0.02)
    sixteen = np.random.default_rng(0).normal(0.3, 1, (3, 16))
    assert list(sign_flip_ps(sixteen)) == [sign_flip_p(row) for row in sixteen]


def test_seeds_needed():
    assert [seeds_needed(m) for m in (1, 4, 7, 14, 21)] == [6, 8, 9, 10, 10]


@settings(max_examples=10)  # statsmodels collects garbage at each call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_equals_statsmodels(ps):
    assert holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_paired_difference():
    d = paired(np.array([0.8, 0.7, 0.9]), np.array([0.7, 0.7, 0.7]))
    assert (d.n, d.effect, d.p) == (3, pytest.approx(0.1), 0.5)
    assert d.interval.half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)


def test_paired_differences_keep_the_t_interval_also_from_ten_seeds_on():
    found = paired_many([np.random.default_rng(0).normal(size=12)])
    assert found[0].interval.method == "t"


def test_equivalence_equals_statsmodels_tost_and_the_posterior_by_hand():
    rng = np.random.default_rng(5)
    one, two = rng.normal(0.80, 0.004, 8), rng.normal(0.80, 0.004, 8)
    found = paired(one, two, margin=0.005)
    assert found.equivalence.p_tost == pytest.approx(ttost_paired(one, two, -0.005, 0.005)[0])
    d = one - two
    posterior = stats.t(7, d.mean(), d.std(ddof=1) / 8**0.5)
    assert found.equivalence.probability == pytest.approx(posterior.cdf(0.005) - posterior.cdf(-0.005))


def test_equivalence_is_undefined_without_spread_and_says_so():
    same = paired(np.array([0.3, 0.4, 0.7]), np.array([0.2, 0.3, 0.6]))
    assert same.equivalence.probability is None and "s = 0" in same.equivalence.undefined
    one = paired(np.array([0.3]), np.array([0.2]))
    assert one.interval is None and "one seed" in one.equivalence.undefined


def test_the_detectable_difference_equals_statsmodels_where_that_converges():
    for n, rows in ((5, 1), (10, 1), (10, 7), (20, 7)):
        reference = TTestPower().solve_power(nobs=n, alpha=0.05 / rows, power=0.8)
        assert detectable(2.0, n, rows) == pytest.approx(2 * reference, rel=1e-4)
    assert detectable(1.0, 1) is None and detectable(1.0, 2, 29) > 100


def test_normalised_scores():
    assert list(normalised(np.array([0.2, 0.5, 0.8]), 0.2, 0.8)) == pytest.approx([0, 0.5, 1])
    with pytest.raises(ValueError, match="does not beat"):
        normalised(np.array([0.2]), 0.5, 0.5)


def test_interquartile_mean_by_hand():
    small = [np.array([0.0, 1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0, 100.0])]
    assert interquartile_mean(small) == Estimate(np.mean([2, 3, 4, 5]), None), "four seeds are no bootstrap"
    large = [np.arange(10.0), np.arange(10.0, 20.0)]
    found = interquartile_mean(large)
    assert found.value == 9.5 and found.interval.low <= 9.5 <= found.interval.high
    assert found == interquartile_mean(large)


def test_probability_of_improvement_equals_mann_whitney():
    rng = np.random.default_rng(2)
    ours, theirs = [rng.integers(0, 5, 10) / 5 for _ in range(3)], [rng.integers(0, 5, 11) / 5 for _ in range(3)]
    expected = np.mean([stats.mannwhitneyu(x, y).statistic / 110 for x, y in zip(ours, theirs, strict=True)])
    found = probability_of_improvement(ours, theirs)
    assert found.value == pytest.approx(expected) and found.interval.low <= expected <= found.interval.high


def test_ranks_equal_scipys_friedman_and_demsars_critical_difference():
    scored = np.random.default_rng(4).normal(size=(8, 5))
    found = rank([f"m{i}" for i in range(8)], scored, list("abcde"))
    assert found.friedman_p == pytest.approx(stats.friedmanchisquare(*scored).pvalue)
    assert found.critical_difference == pytest.approx(4.695, abs=2e-3) and found.share == pytest.approx(
        4.695 / 7, abs=1e-3
    )
    assert sorted(found.mean_ranks) == list(found.mean_ranks) and sum(found.mean_ranks) == pytest.approx(36)


def test_ranks_need_five_data_sets_and_those_on_the_same_data_count_once():
    scored = np.random.default_rng(4).normal(size=(3, 6))
    assert rank(["a", "b", "c"], scored, list("aabbcd")) is None
    found = rank(["a", "b", "c"], scored, list("aabcde"))
    assert found.blocks == 5
    by_task = stats.rankdata(-scored, axis=0)
    by_set = np.c_[by_task[:, :2].mean(axis=1), by_task[:, 2:]]
    assert dict(zip(found.names, found.mean_ranks, strict=True)) == pytest.approx(
        dict(zip("abc", by_set.mean(axis=1), strict=True))
    )


def test_mcnemar_equals_the_binomial_test():
    first = np.array([True] * 12 + [False] * 3 + [True] * 20 + [False] * 5)
    second = np.array([False] * 12 + [True] * 3 + [True] * 20 + [False] * 5)
    found = mcnemar(first, second)
    assert (found.both, found.only_first, found.only_second, found.neither) == (20, 12, 3, 5)
    assert found.p == pytest.approx(stats.binomtest(3, 15).pvalue)
    assert mcnemar(first, first).p == 1.0


def test_the_bootstrap_of_examples_is_as_wide_as_theory_says():
    rng = np.random.default_rng(0)
    labels = np.ones(400)
    first, second = (rng.random(400) < 0.8).astype(float), (rng.random(400) < 0.7).astype(float)

    def accuracy(outputs, labels):
        return float((outputs == labels).mean())

    found = bootstrap_difference(accuracy, first, second, labels)
    error = (first - second).std() / 20
    assert found.value == pytest.approx((first - second).mean())
    assert found.interval.half_width == pytest.approx(1.96 * error, rel=0.1)

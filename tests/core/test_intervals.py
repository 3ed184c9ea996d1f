"""Intervals and p-values against scipy, and against what they promise."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from unnoise.core import intervals
from unnoise.core.errors import InputError


def test_shares_are_wilsons():
    for k, n in [(0, 10), (3, 10), (10, 10), (499, 1000)]:
        found = intervals.share(k, n)
        wanted = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert (found.value, found.low, found.high) == pytest.approx((k / n, wanted.low, wanted.high), abs=1e-12)


def test_student_and_the_mean():
    for freedom in (1, 2, 3.7, 12, 400):
        assert intervals.student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)
    x = np.random.default_rng(0).normal(3, 2, 17)
    found = intervals.mean(torch.from_numpy(x))
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 16, x.mean(), stats.sem(x)))


def test_the_difference_is_welchs():
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 1, 9), rng.normal(1, 4, 23)
    found, wanted = intervals.difference(*map(torch.from_numpy, (x, y))), stats.ttest_ind(x, y, equal_var=False)
    assert (found.low, found.high) == pytest.approx(tuple(wanted.confidence_interval(0.95)))


@pytest.mark.parametrize("decimals", [0, 8])
def test_the_area_is_mann_whitneys(decimals):
    rng = np.random.default_rng(2)
    x, y = rng.normal(0, 1, 40).round(decimals), rng.normal(0.4, 1, 70).round(decimals)
    found = intervals.auc(*map(torch.from_numpy, (x, y)))
    wanted = stats.mannwhitneyu(y, x, alternative="greater", method="asymptotic", use_continuity=False)
    assert found.interval.value == pytest.approx(wanted.statistic / (40 * 70))
    assert found.p_value == pytest.approx(wanted.pvalue)


def test_the_areas_interval_holds_the_truth_as_often_as_it_says():
    """P(X < Y) = Phi(1 / sqrt 2) for normals one apart; hits in 300 draws are binomial, and 0.90 of them is 4 deviations off."""
    truth, rng = stats.norm.cdf(1 / math.sqrt(2)), np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        found = intervals.auc(torch.from_numpy(rng.normal(0, 1, 60)), torch.from_numpy(rng.normal(1, 1, 80))).interval
        hits += found.low <= truth <= found.high
    low, high = stats.binom.ppf([2e-5, 1 - 2e-5], 300, 0.94)  # the normal approximation may cost a hundredth
    assert low <= hits <= min(high + 3, 300)


def test_ranks_are_beta_binomial():
    for count, n, rank, earlier in [(0, 10, 1, 20), (1, 10, 1, 20), (5, 100, 3, 50), (100, 100, 50, 50)]:
        wanted = stats.betabinom.sf(count - 1, n, rank, earlier + 1 - rank)
        assert intervals.below_rank(count, n, rank, earlier) == pytest.approx(wanted, rel=1e-8)


def test_refusals():
    with pytest.raises(InputError, match="no share"):
        intervals.share(3, 0)
    with pytest.raises(InputError, match="at least 2"):
        intervals.mean(torch.ones(1))
    with pytest.raises(InputError, match="not finite"):
        intervals.mean(torch.tensor([1.0, math.nan, 2.0]))
    with pytest.raises(InputError, match="ranks"):
        intervals.below_rank(1, 10, 0, 5)

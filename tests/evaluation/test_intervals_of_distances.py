"""Intervals of two-sample distances and of the classifier's accuracy, against distances of Gaussians in closed form.

Coverage: of R independent intervals of 95 %, fewer cover the truth than the (1e-5)-quantile of Binomial(R, 0.91) with a probability
below 1e-5; 0.91 leaves room for samples of finite size.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from stand_ins import folded, normal

from unnoise.core.errors import InputError
from unnoise.evaluation.classifier_test import classifier_test
from unnoise.evaluation.two_sample import MMD, Energy, SlicedWasserstein, compare, pool

PAIRS = [(0.0, 1.0), (0.2, 1.0), (0.6, 1.0), (0.0, 1.8)]
REPEATS = 120


def energy(mean: float, std: float) -> float:
    return 2 * folded(mean, math.hypot(1, std)) - folded(0, math.sqrt(2)) - folded(0, std * math.sqrt(2))


def mmd(mean: float, std: float) -> float:
    def kernel(gap: float, variance: float) -> float:
        return sum(b / math.sqrt(b**2 + variance) * math.exp(-(gap**2) / (2 * (b**2 + variance))) for b in (0.5, 2.0))

    return kernel(0, 2) + kernel(0, 2 * std**2) - 2 * kernel(mean, 1 + std**2)


def wasserstein(mean: float, std: float) -> float:
    """W_1 on a line: E |Q_1 - Q_2| at a common level, Q_2 - Q_1 = mean + (std - 1) Z."""
    return folded(mean, abs(std - 1)) if std != 1 else abs(mean)


@pytest.mark.parametrize(("mean", "std"), PAIRS)
@pytest.mark.parametrize(
    ("distance", "truth"), [(Energy(), energy), (MMD(bandwidths=(0.5, 2.0)), mmd), (SlicedWasserstein(2), wasserstein)]
)
def test_intervals_cover_the_distance_of_the_distributions(distance, truth, mean, std):
    rng, inside, value = np.random.default_rng(3), 0, truth(mean, std)
    for i in range(REPEATS):
        c = compare(distance, normal(rng, 120), normal(rng, 160, 1, mean, std), 60, seed=i)
        assert c.low <= c.value <= c.high
        inside += c.low <= value <= c.high
    assert inside >= stats.binom.ppf(1e-5, REPEATS, 0.91)


@pytest.mark.parametrize(("distance", "sizes"), [(Energy(), (9, 7)), (MMD(bandwidths=(1.0,)), (6, 11))])
def test_the_jackknife_is_that_of_samples_with_a_row_left_out(distance, sizes):
    rng = np.random.default_rng(4)
    x, y = normal(rng, sizes[0], 3), normal(rng, sizes[1], 3, 0.5)
    pooled, first = pool(x, y)
    got = distance.study(pooled, first[:, None]).error(first) ** 2
    want = 0.0
    for n, leave in ((len(x), lambda i: (drop(x, i), y)), (len(y), lambda i: (x, drop(y, i)))):
        values = np.array([distance(*leave(i)) for i in range(n)])
        want += (n - 1) / n * ((values - values.mean()) ** 2).sum()
    assert got == pytest.approx(want, rel=1e-6)


def drop(x: torch.Tensor, i: int) -> torch.Tensor:
    return torch.cat([x[:i], x[i + 1 :]])


def test_the_influence_of_a_row_on_sliced_wasserstein_is_a_derivative():
    """Against the finite difference of the distance as one row is given a little more weight, by copies of all the others."""
    rng = np.random.default_rng(5)
    x, y, copies = normal(rng, 7, 2), normal(rng, 5, 2, 0.8), 400
    distance = SlicedWasserstein(8)
    pooled, first = pool(x, y)
    influence = distance.study(pooled, first[:, None]).influence
    base = distance(x.repeat(copies, 1), y.repeat(copies, 1))
    for i in range(len(pooled)):
        extra = (x if i < 7 else y)[i - 7 * (i >= 7)][None]
        more = (torch.cat([x.repeat(copies, 1), extra]), y) if i < 7 else (x, torch.cat([y.repeat(copies, 1), extra]))
        slope = (distance(*more) - base) * (copies * (7 if i < 7 else 5) + 1)
        group = first if i < 7 else ~first
        assert slope == pytest.approx(float(influence[i] - influence[group].mean()), abs=0.02)


def test_the_classifier_guesses_between_equal_samples():
    """p <= 0.1 in at most so many of 25 runs: P(p <= a) <= a exactly, so more than the binomial quantile is rarer than 1e-5."""
    rng = np.random.default_rng(6)
    p = np.array([classifier_test(normal(rng, 40, 2), normal(rng, 40, 2), seed=i).p_value for i in range(25)])
    assert (p <= 0.1).sum() <= stats.binom.ppf(1 - 1e-5, 25, 0.1)


def test_the_classifier_tells_apart_what_can_be_and_no_more():
    """Equal covariances, means delta apart: the best accuracy is Phi(delta / 2). The lower end 0.05 above that, 6 standard errors
    from it, has a chance below 1e-6. With less than 3/4 of the gain the trees would have learnt little."""
    rng = np.random.default_rng(7)
    best = stats.norm.cdf(1.0)
    t = classifier_test(normal(rng, 1000, 3), normal(rng, 1000, 3, 2 / math.sqrt(3)))
    assert t.accuracy.low < best + 0.05
    assert t.accuracy.value > 0.5 + 0.75 * (best - 0.5)
    assert t.accuracy.low < t.accuracy.value < t.accuracy.high
    assert t.p_value < 1e-6


def test_no_mistake_in_either_half_is_as_rare_as_twice_that_in_one():
    """t = 100 right answers of 100 in each half: 2 P(Binomial(100, 1/2) = 100); an interval of 97.5 % begins at 0.0125^(1/100)."""
    t = classifier_test(torch.zeros(100, 2), torch.ones(100, 2))
    assert math.isclose(t.p_value, 2 * 0.5**100)
    assert (t.accuracy.value, t.accuracy.high) == (1, 1)
    assert t.accuracy.low == pytest.approx(0.0125 ** (1 / 100), rel=1e-9)


def test_the_classifier_sees_a_spread_that_no_line_separates():
    rng = np.random.default_rng(8)
    assert classifier_test(normal(rng, 400, 4), normal(rng, 400, 4, 0.0, 3.0)).p_value < 1e-6


def test_what_no_classifier_can_learn_from_is_refused():
    x = torch.zeros(100, 3)
    with pytest.raises(InputError, match="needs 40 of each"):
        classifier_test(x, x[:39])
    with pytest.raises(InputError, match="3 and of 2 numbers"):
        classifier_test(x, torch.zeros(100, 2))
    with pytest.raises(InputError, match="not finite"):
        classifier_test(x, x / 0)
    assert classifier_test(x, x).accuracy.value == 0.5

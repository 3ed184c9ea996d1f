"""Two-sample distances against closed forms between Gaussians and independent implementations."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from stand_ins import folded, normal

from unnoise.core.errors import InputError
from unnoise.evaluation import two_sample
from unnoise.evaluation.two_sample import MMD, Energy, SlicedWasserstein, compare, floor

DISTANCES = [Energy(), Energy(unbiased=False), MMD(), MMD(unbiased=False, bandwidths=(0.5, 3.0)), SlicedWasserstein(16)]


def assert_mean(values: list[float], truth: float) -> None:
    """|t| < 5 for 200 estimates: false alarm 1.3e-6 (Student, 199 degrees of freedom; estimates averaged over many pairs each)."""
    v = np.array(values)
    assert abs(v.mean() - truth) < 5 * v.std(ddof=1) / math.sqrt(len(v))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 1.0), (-0.3, 2.0)])
def test_energy_of_two_gaussians(mean, std):
    truth = 2 * folded(mean, math.hypot(1, std)) - folded(0, math.sqrt(2)) - folded(0, std * math.sqrt(2))
    assert_mean([Energy()(normal(2 * i, 40), normal(2 * i + 1, 60, 1, mean, std)) for i in range(200)], truth)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 1.0), (-0.3, 2.0)])
def test_mmd_of_two_gaussians(mean, std):
    d, widths = 3, (0.5, 2.0)

    def expected(gap: float, variance: float) -> float:
        """E k(X, Y) for X - Y ~ N(gap in every coordinate, variance I)."""
        return sum((b**2 / (b**2 + variance)) ** (d / 2) * math.exp(-d * gap**2 / (2 * (b**2 + variance))) for b in widths)

    truth = expected(0, 2) + expected(0, 2 * std**2) - 2 * expected(mean, 1 + std**2)
    mmd = MMD(bandwidths=widths)
    assert_mean([mmd(normal(2 * i, 40, d), normal(2 * i + 1, 60, d, mean, std)) for i in range(200)], truth)


def test_energy_and_mmd_are_the_sums_that_define_them():
    x, y = normal(0, 13, 4).numpy(), normal(1, 9, 4, 0.5).numpy()
    xx, yy, xy = cdist(x, x), cdist(y, y), cdist(x, y)
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    assert Energy(False)(tx, ty) == pytest.approx(2 * xy.mean() - xx.mean() - yy.mean(), rel=1e-7)
    assert Energy()(tx, ty) == pytest.approx(2 * xy.mean() - xx.sum() / (13 * 12) - yy.sum() / (9 * 8), rel=1e-7)
    kx, ky, kxy = (sum(np.exp(-(m**2) / (2 * b**2)) for b in (0.5, 3.0)) for m in (xx, yy, xy))
    biased = kx.mean() + ky.mean() - 2 * kxy.mean()
    unbiased = (kx.sum() - 2 * 13) / (13 * 12) + (ky.sum() - 2 * 9) / (9 * 8) - 2 * kxy.mean()
    assert MMD(False, (0.5, 3.0))(tx, ty) == pytest.approx(biased, rel=1e-7)
    assert MMD(True, (0.5, 3.0))(tx, ty) == pytest.approx(unbiased, rel=1e-7)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (37, 64)])
def test_sliced_wasserstein_on_a_line_is_wasserstein(n, m):
    x, y = normal(2, n), normal(3, m, 1, 0.4, 1.7)
    assert SlicedWasserstein(3)(x, y) == pytest.approx(stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()), rel=1e-10)


@pytest.mark.parametrize("d", [2, 5, 64])
def test_sliced_wasserstein_of_a_shift(d):
    """Rows moved by c: W_1 along w is |<w, c>|, whose mean over the sphere is |c| Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2))."""
    x, k = normal(4, 30, d), 2000
    c = normal(5, 1, d)
    norm = float(c.norm())
    truth = norm * math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2)) / math.sqrt(math.pi)
    spread = math.sqrt(norm**2 / d - truth**2)  # E <w, c>^2 = |c|^2 / d
    # a bounded mean of 2000 draws, 5 standard deviations: below 1e-6
    assert abs(SlicedWasserstein(k)(x, x + c) - truth) < 5 * spread / math.sqrt(k)


@pytest.mark.parametrize("distance", DISTANCES)
def test_small_blocks_give_the_same(distance, monkeypatch):
    x, y = normal(6, 31, 3), normal(7, 22, 3, 0.3)
    whole = compare(distance, x, y, 39), distance(x, y)
    monkeypatch.setattr(two_sample, "_BLOCK", 150)
    assert distance(x, y) == pytest.approx(whole[1], rel=1e-6)
    assert compare(distance, x, y, 39).p_value == whole[0].p_value


@pytest.mark.parametrize("distance", DISTANCES)
def test_p_values_are_uniform_for_one_distribution_and_small_for_two(distance):
    p = np.array([compare(distance, normal(2 * i, 20, 2), normal(2 * i + 1, 15, 2), 39, seed=i).p_value for i in range(200)])
    for level in (0.1, 0.25, 0.5):
        # the p-value is uniform on 1/40 ... 1, so P(p <= level) = level; 15 two-sided tails of 2e-6 each: 3e-5
        low, high = stats.binom.ppf([1e-6, 1 - 1e-6], 200, level)
        assert low <= (p <= level + 1e-9).sum() <= high
    # three standard deviations apart: no random split comes near; P(p > 0.01) would need ten splits in 999 nearly the same as this
    assert compare(distance, normal(0, 20, 2), normal(1, 15, 2, 3.0), 999).p_value == 0.001


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_floor_is_the_distance_between_halves_of_one_sample(distance):
    pooled = normal(8, 60, 2)
    f = floor(distance, pooled[:40], pooled[40:], splits=200)
    rng = np.random.default_rng(9)
    own = []
    for _ in range(200):
        order = torch.from_numpy(rng.permutation(60))
        own.append(distance(pooled[order[:40]], pooled[order[40:]]))
    # two means of 200 draws of one distribution: 5 standard errors of their difference, below 1e-6
    assert abs(f.mean - np.mean(own)) < 5 * math.sqrt(2 / 200) * float(np.std(own)) + 1e-12
    # Pearson's chi-square on 199 draws varies by 10 %: the ratio of two standard deviations stays within a factor 1.7 (F, 199, 199)
    assert stats.f.sf(1.7**2, 199, 199) < 1e-12
    assert 1 / 1.7 < f.std / float(np.std(own)) < 1.7
    assert f.mean <= f.high


def test_what_cannot_be_compared_is_refused():
    x = normal(0, 5, 3)
    with pytest.raises(InputError, match="3 and of 2 numbers a row"):
        Energy()(x, normal(1, 5, 2))
    with pytest.raises(InputError, match="5 and 1 rows"):
        Energy()(x, x[:1])
    with pytest.raises(InputError, match="not finite"):
        Energy()(x, x / 0)
    with pytest.raises(InputError, match="more than half of the rows are equal"):
        MMD()(torch.zeros(5, 3), torch.zeros(5, 3))

"""Metrics of features against Gaussians in closed form, known supports and independent implementations."""

import math
from functools import reduce
from itertools import product

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from sklearn.neighbors import NearestNeighbors
from stand_ins import normal

from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval
from unnoise.evaluation import manifold
from unnoise.evaluation.frechet import Moments, distance, frechet, frechet_infinite
from unnoise.evaluation.kernel import kid
from unnoise.evaluation.manifold import density_coverage, precision_recall
from unnoise.evaluation.quality import over_seeds
from unnoise.evaluation.vendi import vendi

REPEATS = 80
ENOUGH = stats.binom.ppf(1e-5, REPEATS, 0.91)
"""Of 80 intervals of 95 % fewer cover the truth with a probability below 1e-5, with 4 % to spare for samples of finite size."""


def moments(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    return Moments(11, torch.from_numpy(mean), torch.from_numpy(10 * covariance))


def test_moments_are_those_of_all_rows_however_they_come():
    x = 1e4 + normal(0, 1000, 7)
    whole = Moments.of(x)
    np.testing.assert_allclose(whole.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(whole.covariance, np.cov(x.T), rtol=1e-9, atol=1e-12)
    added = reduce(Moments.__add__, map(Moments.of, x.split([1, 300, 99, 600])))
    np.testing.assert_allclose(added.covariance, whole.covariance, rtol=1e-9, atol=1e-12)
    assert added.count == 1000


def test_frechet_of_two_gaussians():
    rng = np.random.default_rng(1)
    a, b, gap = rng.normal(size=(6, 6)), rng.normal(size=(6, 6)), rng.normal(size=6)
    s, t = a @ a.T, b @ b.T
    want = gap @ gap + np.trace(s + t - 2 * linalg.sqrtm(s @ t).real)  # the formula in its other form, with a Schur root
    assert distance(moments(np.zeros(6), s), moments(gap, t)) == pytest.approx(want, rel=1e-9)
    # commuting covariances: the sum of squared differences of standard deviations; one direction without variance in each
    u, v = np.diag([4.0, 0.0, 1.0]), np.diag([1.0, 9.0, 0.0])
    assert distance(moments(np.zeros(3), u), moments(np.zeros(3), v)) == pytest.approx(1 + 9 + 1, rel=1e-9)
    assert distance(moments(gap, s), moments(gap, s)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.2, 1.0), (0.5, 1.4)])
def test_frechet_without_end_of_rows_is_that_of_the_distributions(mean, std):
    """Its interval covers d (mean^2 + (std - 1)^2); its mean over 80 pairs is within 5 standard errors and 3 % of it (P < 1e-5);
    the distance of the samples themselves is above it by at least half the bias at equal distributions."""
    d, truth = 5, 5 * (mean**2 + (std - 1) ** 2)
    pairs = [(normal(2 * i, 250, d), normal(2 * i + 1, 300, d, mean, std)) for i in range(REPEATS)]
    found = [frechet_infinite(x, y, points=4, nests=3, seed=i) for i, (x, y) in enumerate(pairs)]
    assert sum(f.low <= truth <= f.high for f in found) >= ENOUGH
    values = np.array([f.value for f in found])
    error = values.std(ddof=1) / math.sqrt(REPEATS)
    assert abs(values.mean() - truth) < 5 * error + 0.03 * truth
    plain = np.array([frechet(x, y).value for x, y in pairs])
    assert plain.mean() > truth + 0.5 * np.mean([frechet(x, normal(1000 + i, 300, d)).value for i, (x, _) in enumerate(pairs)])


def test_the_frechet_interval_is_as_wide_as_distances_vary():
    """Far apart, where the bias is small: the mean half-width is 1.96 standard deviations. 80 draws tell a deviation to 8 %
    (chi-square): beyond a factor 1.5 with a probability below 1e-5."""
    found = [frechet(normal(2 * i, 300, 4), normal(2 * i + 1, 300, 4, 0.7, 1.5)) for i in range(REPEATS)]
    ratio = np.mean([(f.high - f.low) / 2 for f in found]) / (1.96 * np.std([f.value for f in found], ddof=1))
    assert stats.chi2.cdf(79 / 1.5**2, 79) < 1e-5
    assert stats.chi2.sf(79 * 1.5**2, 79) < 1e-5
    assert 1 / 1.5 < ratio < 1.5


def test_frechet_refuses_what_it_cannot_extrapolate():
    with pytest.raises(InputError, match="at least 300 are needed"):
        frechet_infinite(torch.randn(200, 100), torch.randn(500, 100))
    with pytest.raises(InputError, match="3 and 2 features"):
        frechet(torch.randn(9, 3), torch.randn(9, 2))
    with pytest.raises(InputError, match="not finite"):
        frechet(torch.full((9, 3), torch.nan), torch.randn(9, 3))
    constant = torch.ones(200, 3)
    assert frechet(constant, constant).value == 0
    assert frechet(constant, constant + 1).value == pytest.approx(3)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.3, 1.0), (0.0, 1.5)])
def test_kid_of_two_gaussians(mean, std):
    """E (1 + XY)^3 = 1 + 3 E X E Y + 3 E X^2 E Y^2 + E X^3 E Y^3 on a line; the mean of 80 within 5 standard errors (P < 1e-5)."""

    def k(m: float, s: float, q: float, t: float) -> float:
        return 1 + 3 * m * q + 3 * (m**2 + s**2) * (q**2 + t**2) + (m**3 + 3 * m * s**2) * (q**3 + 3 * q * t**2)

    truth = k(0, 1, 0, 1) + k(mean, std, mean, std) - 2 * k(0, 1, mean, std)
    found = [kid(normal(2 * i, 150, 1), normal(2 * i + 1, 200, 1, mean, std)) for i in range(REPEATS)]
    values = np.array([f.value for f in found])
    assert abs(values.mean() - truth) < 5 * values.std(ddof=1) / math.sqrt(REPEATS)
    assert sum(f.low <= truth <= f.high for f in found) >= ENOUGH


def test_kid_is_the_sum_that_defines_it():
    x, y = normal(0, 12, 5).numpy(), normal(1, 9, 5, 0.4).numpy()

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(p * q for p, q in zip(a, b)) / 5 + 1) ** 3

    xx = np.mean([k(x[i], x[j]) for i, j in product(range(12), range(12)) if i != j])
    yy = np.mean([k(y[i], y[j]) for i, j in product(range(9), range(9)) if i != j])
    xy = np.mean([k(a, b) for a, b in product(x, y)])
    assert kid(torch.from_numpy(x), torch.from_numpy(y)).value == pytest.approx(xx + yy - 2 * xy, rel=1e-9)


def brute(real: np.ndarray, made: np.ndarray, k: int, l: int) -> list[float]:
    """Precision, recall (k), density, coverage (l), with scikit-learn's neighbours."""

    def ball(x: np.ndarray, n: int) -> np.ndarray:
        return NearestNeighbors(n_neighbors=n + 1, algorithm="brute").fit(x).kneighbors(x)[0][:, n]

    d = np.linalg.norm(real[:, None] - made[None], axis=-1)
    inside = d <= ball(real, l)[:, None]
    return [
        (d <= ball(real, k)[:, None]).any(0).mean(),
        (d <= ball(made, k)[None]).any(1).mean(),
        inside.sum(0).mean() / l,
        inside.any(1).mean(),
    ]


@pytest.mark.parametrize("block", [1 << 22, 1000])
def test_the_four_manifold_figures_are_those_of_scikit_learns_neighbours(block, monkeypatch):
    monkeypatch.setattr(manifold, "_BLOCK", block)
    real, made = normal(0, 130, 3).float(), normal(1, 170, 3, 0.5, 0.8).float()
    got = [*precision_recall(real, made), *density_coverage(real, made)]
    assert [g.value for g in got] == pytest.approx(brute(real.double().numpy(), made.double().numpy(), 3, 5), abs=1e-9)


def test_known_supports():
    """Real rows on [0, 1]^2, made ones on its left half, its right half and beyond, or far away."""
    rng = np.random.default_rng(2)
    unit = torch.from_numpy(rng.uniform(size=(2, 1500, 2)))
    real, made = unit
    half = made * torch.tensor([0.5, 1.0])
    p, r = precision_recall(real, half)
    d, c = density_coverage(real, half)
    # rows within a ball's reach of the border are all that is undecided: 3 neighbours of 1500 reach sqrt(3 / (1500 pi)) = 0.025
    assert p.value > 0.9
    assert r.value == pytest.approx(0.5, abs=0.06)
    assert c.value == pytest.approx(0.5, abs=0.08)
    assert d.value == pytest.approx(1.0, abs=0.15)
    p, r = precision_recall(real, made + torch.tensor([0.5, 0.0]))
    assert p.value == pytest.approx(0.5, abs=0.06)
    assert r.value == pytest.approx(0.5, abs=0.06)
    assert [i.value for i in (*precision_recall(real, made + 5), *density_coverage(real, made + 5))] == [0, 0, 0, 0]
    assert all(i.value == 1 for i in precision_recall(real, real))


def test_density_and_coverage_of_equal_distributions():
    """Naeem et al., section 3.3: 1 and 1 - (n-1)...(n-k) / ((n+m-1)...(n+m-k)) in the mean; 60 pairs, 5 standard errors: below
    1e-5."""
    n, m, k = 60, 90, 4
    found = [density_coverage(normal(2 * i, n, 2), normal(2 * i + 1, m, 2), k) for i in range(60)]
    expected = 1.0, 1 - math.prod((n - i) / (n + m - i) for i in range(1, k + 1))
    for j, truth in enumerate(expected):
        v = np.array([f[j].value for f in found])
        assert abs(v.mean() - truth) < 5 * v.std(ddof=1) / math.sqrt(len(v))


def test_intervals_of_the_manifold_figures_are_as_wide_as_they_vary():
    """Half-widths over 2.26 standard deviations (Student, 9) between 1/2 and 2.5: they err on the wide side where a figure is
    near its end, and 40 draws tell a deviation to 11 %."""
    found = [
        [*precision_recall(x, y), *density_coverage(x, y)]
        for x, y in ((normal(2 * i, 200, 3), normal(2 * i + 1, 200, 3, 0.6, 1.3)) for i in range(40))
    ]
    for figures in zip(*found):
        deviation = np.std([f.value for f in figures], ddof=1)
        ratio = np.mean([(f.high - f.low) / 2 for f in figures]) / (2.26 * deviation)
        assert 0.5 < ratio < 2.5


def test_too_few_rows_for_neighbours_are_refused():
    with pytest.raises(InputError, match="at least 45"):
        precision_recall(torch.randn(44, 2), torch.randn(100, 2))


def test_vendi_counts_what_is_different():
    eye = torch.eye(5).repeat(40, 1)
    assert vendi(eye).value == pytest.approx(5)
    assert vendi(torch.tensor([[1.0, 2.0]]).repeat(50, 1)).value == pytest.approx(1)
    # shares 1/2, 1/4, 1/4: exp of their entropy
    uneven = torch.eye(3)[torch.tensor([0, 0, 1, 2])].repeat(10, 1)
    assert vendi(uneven).value == pytest.approx(math.exp(1.5 * math.log(2)))
    x = normal(0, 60, 9, 0.3).numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(unit @ unit.T / 60)
    values = values[values > 1e-12]
    assert vendi(torch.from_numpy(x)).value == pytest.approx(math.exp(-(values * np.log(values)).sum()), rel=1e-6)
    with pytest.raises(InputError, match="all 0"):
        vendi(torch.cat([torch.zeros(1, 5), eye]))


def test_the_vendi_interval_covers_the_score_of_the_distribution():
    """Rows are axes with probabilities p: the score is exp(-sum p log p). The plug-in entropy is too small by about 3 / (2 n), of
    a standard error of 0.02 the twentieth part."""
    p = np.array([0.5, 0.25, 0.15, 0.1])
    truth, inside = math.exp(-(p * np.log(p)).sum()), 0
    for i in range(REPEATS):
        v = vendi(torch.eye(4)[torch.from_numpy(np.random.default_rng(i).choice(4, 1500, p=p))])
        inside += v.low <= truth <= v.high
    assert inside >= ENOUGH


def test_the_mean_over_seeds_doubts_both_rows_and_seeds():
    one = Interval(2.0, 1.0, 3.0)
    assert over_seeds([one]) == one
    assert over_seeds([one, one]).high == pytest.approx(3.0)  # the rows are the same: no network makes them more
    apart = over_seeds([Interval(1.0, 1.0, 1.0), Interval(2.0, 2.0, 2.0), Interval(4.0, 4.0, 4.0)])
    want = stats.ttest_1samp([1.0, 2.0, 4.0], 0).confidence_interval(0.95)
    assert (apart.low, apart.high) == pytest.approx((want.low, want.high), rel=1e-4)

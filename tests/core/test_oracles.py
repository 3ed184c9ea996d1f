"""Exact denoisers against quadrature, against each other, and against what they say of themselves."""

import math

import pytest
import torch
from scipy.stats import chi2, multivariate_normal, norm

from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactCategorical, ExactFinite, ExactGaussian, ExactMixture, ExactTorus
from unnoise.core.processes import Gaussian, Masked, Torus, UniformCategorical
from unnoise.core.random import Streams
from unnoise.core.schedules import EDM, VE, Cosine, LinearVP, RectifiedFlow

SCHEDULES = [LinearVP(), Cosine(), VE(), EDM(), RectifiedFlow()]
GRID = torch.linspace(-8, 8, 16001, dtype=torch.float64)


def col(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_mixture_against_quadrature(schedule):
    """E[x_0 | x_t] in one dimension, as two integrals on a fine grid."""
    weights, means, variances = [0.3, 0.7], [-1.0, 1.5], [0.09, 0.5]
    model = ExactMixture(Gaussian(schedule), weights, col(*means)[:, None], variances)
    density = sum(w * torch.from_numpy(norm.pdf(GRID, m, math.sqrt(v))) for w, m, v in zip(weights, means, variances))
    for u in (0.1, 0.4, 0.7, 1.0):
        t = col(u)
        a, s = schedule.alpha(t), schedule.sigma(t)
        if s < 0.02:
            continue  # the grid is too coarse for so little noise
        for x in (-1.2, 0.1, 2.0):
            post = density * torch.exp(-((x - a * GRID) ** 2) / (2 * s**2))
            want = (post * GRID).sum() / post.sum()
            got = model(col(x)[:, None], t).x0[0, 0]
            assert float(got) == pytest.approx(float(want), abs=1e-6)


def test_full_covariances_are_rotated_isotropic_and_diagonal_ones():
    """Log-density against scipy; and the score from the denoiser (Tweedie) against autograd of the log-density, at any t."""
    g = torch.Generator().manual_seed(0)
    root = torch.randn(2, 3, 3, dtype=torch.float64, generator=g)
    covariances, means = root @ root.mT + 0.1 * torch.eye(3), torch.randn(2, 3, dtype=torch.float64, generator=g)
    process = Gaussian(Cosine())
    model = ExactMixture(process, [0.4, 0.6], means, covariances)
    x = torch.randn(5, 3, dtype=torch.float64, generator=g)
    want = sum(w * multivariate_normal.pdf(x, m, c) for w, m, c in zip([0.4, 0.6], means.numpy(), covariances.numpy()))
    torch.testing.assert_close(model.log_prob(x).exp(), torch.from_numpy(want))
    t = col(0.1, 0.3, 0.5, 0.8, 1.0)
    a, s = process.schedule.alpha(t)[:, None], process.schedule.sigma(t)[:, None]
    y = x.clone().requires_grad_(True)
    (score,) = torch.autograd.grad(model.log_prob(y, t).sum(), y)
    torch.testing.assert_close(model(x, t).x0 * a, x + s**2 * score)
    same = ExactMixture(process, [0.4, 0.6], means, 0.3 * torch.eye(3).expand(2, 3, 3))
    plain = ExactMixture(process, [0.4, 0.6], means, [0.3, 0.3])
    torch.testing.assert_close(same(x, t).x0, plain(x, t).x0)


def test_a_gaussian_is_a_mixture_of_one_and_its_means_are_affine():
    process, mean = Gaussian(RectifiedFlow()), torch.arange(4.0).reshape(2, 2)
    model = ExactGaussian(process, mean, 0.25)
    t = col(0.3)
    x = torch.randn(1, 2, 2, dtype=torch.float64)
    want = mean + 0.7 * 0.25 / (0.49 * 0.25 + 0.09) * (x - 0.7 * mean)
    torch.testing.assert_close(model(x, t).x0, want)
    torch.testing.assert_close(model(x, col(1.0)).x0, mean.double()[None])  # no signal: the prior mean
    torch.testing.assert_close(model(x, col(0.0)).x0, x)  # no noise: x itself


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_finite_is_the_limit_of_narrow_mixtures_and_whole_at_both_ends(schedule):
    points = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double()
    weights = [0.1, 0.2, 0.1, 0.3, 0.2, 0.1]
    finite = ExactFinite(Gaussian(schedule), points, weights)
    narrow = ExactMixture(Gaussian(schedule), weights, points, [1e-14] * 6)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).double()
    t = col(0.2, 0.5, 0.9, 1.0)
    torch.testing.assert_close(finite(x, t).x0, narrow(x, t).x0, atol=1e-6, rtol=0)
    near = points[[2, 0, 5, 1]] + 1e-3
    torch.testing.assert_close(finite(near, torch.zeros(4, dtype=torch.float64)).x0, points[[2, 0, 5, 1]])
    tiny = torch.full((4,), 1e-9, dtype=torch.float64)
    torch.testing.assert_close(finite(points[:4], tiny).x0, points[:4])
    if float(schedule.alpha(col(1.0))) == 0:
        prior_mean = (torch.tensor(weights).double()[:, None] * points).sum(0)
        torch.testing.assert_close(finite(x, torch.ones(4, dtype=torch.float64)).x0, prior_mean.expand(4, 3))


def every_sequence(k, d):
    return torch.cartesian_prod(*[torch.arange(k)] * d).reshape(-1, d)


@pytest.mark.parametrize("process", [Masked((3,)), UniformCategorical((3,)), UniformCategorical((3, 2))], ids=str)
def test_categorical_against_bayes_by_simulation(process):
    """Corrupt 20,000 exact draws; among those that became one x_t, count the data's categories. Threshold: 1e-6 a chi-square."""
    sequences = torch.tensor([[0, 1], [2, 1], [1, 0], [2, 0]])
    model, n = ExactCategorical(process, sequences, [0.4, 0.3, 0.2, 0.1]), 20000
    rng = Streams.of(3, n)
    x_0 = model.sample(rng)
    t = torch.full((n,), 0.6, dtype=torch.float64)
    x_t = process.corrupt(x_0, t, rng).x_t
    for seen in every_sequence(process.tokens(), 2):
        rows = (x_t == seen).all(-1)
        if rows.sum() < 300:
            continue
        p = model(seen[None], t[:1]).logits[0].softmax(-1)
        for d in range(2):
            counts = torch.bincount(x_0[rows, d], minlength=3).double()
            expected = p[d] * rows.sum()
            assert bool((counts[expected == 0] == 0).all())
            big = expected > 5
            if big.sum() > 1 and bool((big | (expected == 0)).all()):
                statistic = float(((counts - expected)[big] ** 2 / expected[big]).sum())
                assert chi2.sf(statistic, int(big.sum()) - 1) > 1e-6


def test_categorical_never_nan():
    """Where no sequence explains x_t, the nearest ones do; at t = 0 what is seen is certain."""
    model = ExactCategorical(Masked((3,)), torch.tensor([[0, 0, 1], [1, 1, 1]]), [0.5, 0.5])
    p = model(torch.tensor([[0, 0, 2], [3, 1, 3]]), col(0.5, 0.5)).logits.softmax(-1)
    torch.testing.assert_close(p[:, 0], torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64))
    sure = model(torch.tensor([[1, 1, 1]]), col(0.0)).logits.softmax(-1)
    torch.testing.assert_close(sure[0].argmax(-1), torch.tensor([1, 1, 1]))


def test_torus_tangent_is_sigma_squared_times_the_score():
    """Against autograd of the log-density, and the density against a plain sum over turns; whole at both ends."""
    process = Torus()
    points = torch.tensor([[3.0, -2.0], [0.5, 1.0], [-3.0, 0.0]])
    model = ExactTorus(process, points, std=[0.0, 0.3, 1.0], weights=[0.5, 0.2, 0.3])
    x = (torch.rand(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1) * math.pi
    t = col(0.3, 0.45, 0.6, 0.75, 0.9, 1.0)
    y = x.clone().requires_grad_(True)
    log_p = model.log_prob(y, t)
    (score,) = torch.autograd.grad(log_p.sum(), y)
    sigma = process.schedule.sigma(t)
    torch.testing.assert_close(model(x, t).v, sigma[:, None] ** 2 * score)
    plain = torch.zeros(6, dtype=torch.float64)
    for w, p, std in zip([0.5, 0.2, 0.3], points.double(), [0.0, 0.3, 1.0]):
        tau = (std**2 + sigma**2).sqrt()
        factors = [
            sum(torch.exp(-((x[:, d] - p[d] + 2 * math.pi * k) ** 2) / (2 * tau**2)) for k in range(-30, 31))
            / (tau * math.sqrt(2 * math.pi))
            for d in range(2)
        ]
        plain += w * factors[0] * factors[1]
    torch.testing.assert_close(log_p.detach().exp(), plain, rtol=1e-5, atol=0)  # the points are float32
    finite = ExactTorus(process, points)
    assert float(finite(points.double() + 0.01, torch.zeros(3, dtype=torch.float64)).v.abs().max()) == pytest.approx(0.01, rel=1e-4)


def test_draws_have_the_moments_of_the_law():
    """Means and variances of 20,000 draws within 5 standard errors (two-sided 6e-7 each, 12 comparisons)."""
    rng, n = Streams.of(9, 20000), 20000
    root = torch.tensor([[1.0, 0.0], [0.8, 0.3]], dtype=torch.float64)
    model = ExactMixture(
        Gaussian(LinearVP()), [0.25, 0.75], torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.stack([root @ root.T] * 2)
    )
    x = model.sample(rng).double()
    mean = torch.tensor([0.75, -0.25], dtype=torch.float64)
    spread = torch.tensor([[1.0, -3.0], [-3.0, 9.0]], dtype=torch.float64) * 0.25 * 0.75 + root @ root.T
    outer = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert bool(((x.mean(0) - mean).abs() < 5 * x.std(0) / math.sqrt(n)).all())
    assert bool(((outer.mean(0) - spread).abs() < 5 * outer.std(0) / math.sqrt(n)).all())
    which = ExactFinite(Gaussian(LinearVP()), torch.tensor([[0.0], [1.0]]), [0.2, 0.8]).sample(rng)
    assert abs(float(which.mean()) - 0.8) < 5 * math.sqrt(0.16 / n)
    angles = ExactTorus(Torus(), torch.tensor([[3.0]]), std=0.5).sample(rng).double()
    # E cos(x - 3) of a wrapped normal is e^(-std^2 / 2)
    c = torch.cos(angles - 3)
    assert abs(float(c.mean()) - math.exp(-0.125)) < 5 * float(c.std()) / math.sqrt(n)


def test_refusals():
    process = Gaussian(LinearVP())
    with pytest.raises(InputError, match="weights must be 2 numbers"):
        ExactFinite(process, torch.zeros(2, 3), [1.0, -1.0])
    with pytest.raises(InputError, match="covariances have shape"):
        ExactMixture(process, [0.5, 0.5], torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(InputError, match="positive semi-definite"):
        ExactMixture(process, [1.0], torch.zeros(1, 2), torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]))

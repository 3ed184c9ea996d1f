"""What the stochastic samplers draw is, at 64 steps, the data's law within Monte Carlo error.

Energy distance to exact draws, n against n, beside the threshold that equal laws pass but five times in a million (Chernoff's
bound on the statistic's limiting law, whose eigenvalues come from exact draws). The 16 comparisons together raise a false alarm in
8 of 100,000 runs. The control shows what they would see: exact draws 15 % (2-D) or 10 % (64-D) too wide do not pass.
"""

from functools import lru_cache

import pytest
import torch
from scipy.stats import chi2
from worlds import draws, energy, energy_spectrum, energy_threshold, mixture

from unnoise.core.oracles import ExactCategorical, ExactTorus
from unnoise.core.processes import Gaussian, Masked, Torus, UniformCategorical
from unnoise.core.random import Streams
from unnoise.core.schedules import LinearVP, RectifiedFlow
from unnoise.samplers.ancestral import Ancestral
from unnoise.samplers.grids import Quadratic, Uniform
from unnoise.samplers.loop import sample
from unnoise.samplers.registry import SAMPLERS

RATE = 5e-6
WORLDS = {"2-D": (2, LinearVP(), 3000, 1.15), "64-D": (64, RectifiedFlow(), 2500, 1.1)}


@lru_cache
def world(name):
    dims, schedule, n, _ = WORLDS[name]
    model = mixture(Gaussian(schedule), dims, [0.05, 0.2, 0.1, 0.15])
    exact = model.sample(Streams.of(100, n))
    return model, exact, energy_threshold(energy_spectrum(model.sample(Streams.of(101, 1000))), RATE)


@pytest.mark.parametrize("where", WORLDS)
def test_the_floor_and_the_control(where):
    model, exact, threshold = world(where)
    other = model.sample(Streams.of(102, len(exact)))
    assert energy(other, exact) < threshold
    assert energy(WORLDS[where][3] * other, exact) > threshold


STOCHASTIC = ["ancestral", "heun-churn", "dpmpp-2m-sde", "euler-maruyama", "pc", "restart"]


SLOW = [("dpmpp-sde", "2-D"), ("dpm-2-ancestral", "2-D")]


@pytest.mark.parametrize(("name", "where"), [*((n, w) for n in STOCHASTIC for w in WORLDS), *SLOW])
def test_energy_distance_at_64_steps(name, where):
    model, exact, threshold = world(where)
    sampler, grid = SAMPLERS[name]
    assert energy(draws(model, sampler, grid.times(64, model.process), len(exact), seed=7), exact) < threshold


def chi_square(counts, p):
    """The p-value of Pearson's test; every expected count must be at least 5."""
    expected = p * counts.sum()
    assert float(expected[p > 0].min()) >= 5
    assert bool((counts[p == 0] == 0).all())
    kept = p > 0
    return chi2.sf(float(((counts - expected)[kept] ** 2 / expected[kept]).sum()), int(kept.sum()) - 1)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("process", [Masked((5,)), UniformCategorical((5,))], ids=["masked", "uniform"])
def test_one_position_is_exact_in_any_number_of_steps(process, eta):
    """One categorical position: the bridge to an exact posterior draw is the exact reverse chain. alpha level 1e-5 each."""
    p = torch.tensor([0.4, 0.3, 0.2, 0.07, 0.03])
    model, rng = ExactCategorical(process, torch.arange(5)[:, None], p), Streams.of(4, 2000)
    for steps in (1, 5):
        x = sample(
            lambda x, t: model(x, t, {}), process, process.prior((1,), rng), Uniform().times(steps, process), Ancestral(eta), rng
        )
        assert chi_square(torch.bincount(x[:, 0], minlength=5).double(), p.double()) > 1e-5


def test_two_dependent_positions_masked():
    """With N equal steps both positions are revealed in one step, so independently, with probability 1 / N: the law is known."""
    joint = torch.tensor([[0.5, 0.0], [0.1, 0.4]], dtype=torch.float64)
    process, n = Masked((2,)), 4
    pairs = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    model, rng = ExactCategorical(process, pairs, joint.flatten()), Streams.of(5, 4000)
    x = sample(lambda x, t: model(x, t, {}), process, process.prior((2,), rng), Uniform().times(n, process), Ancestral(), rng)
    alone = joint.sum(1)[:, None] * joint.sum(0)
    law = (1 - 1 / n) * joint + alone / n
    assert chi_square(torch.bincount(2 * x[:, 0] + x[:, 1], minlength=4).double(), law.flatten()) > 1e-5


def test_torus_against_the_wrapped_normal_density():
    """64 steps down to a mixture of wrapped normals, one of them across the seam at pi: 16 bins, exact probabilities."""
    process = Torus()
    model = ExactTorus(process, torch.tensor([[3.0], [0.5]]), std=[0.5, 1.0], weights=[0.6, 0.4])
    rng = Streams.of(6, 2000)
    x = sample(lambda x, t: model(x, t, {}), process, process.prior((1,), rng), Quadratic().times(64, process), Ancestral(), rng)
    edges = torch.linspace(-torch.pi, torch.pi, 16 * 75 + 1, dtype=torch.float64)
    middle = (edges[1:] + edges[:-1]) / 2
    p = model.log_prob(middle[:, None]).exp().reshape(16, 75).sum(1) * (2 * torch.pi / 1200)
    assert float(p.sum()) == pytest.approx(1, abs=1e-6)
    assert chi_square(torch.histc(x.double(), 16, -torch.pi, torch.pi), p) > 1e-5

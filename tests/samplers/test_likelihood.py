"""The likelihood by the ODE against the mixture's own density."""

import math

import pytest
import torch
from worlds import mixture, oracle

from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactGaussian
from unnoise.core.processes import Gaussian, Masked
from unnoise.core.random import Streams
from unnoise.core.schedules import EDM, VE, Cosine, LinearVP, RectifiedFlow
from unnoise.samplers.likelihood import Exact, Hutchinson, Likelihood


@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), VE(sigma_max=200.0), EDM(200.0), RectifiedFlow()], ids=str)
def test_within_a_hundredth_of_a_nat_in_2d(schedule):
    model = mixture(Gaussian(schedule), 2, [0.05, 0.2, 0.1, 0.15])
    x = model.sample(Streams.of(1, 16)).double()
    got = Likelihood(Exact(), steps=64)(oracle(model), model.process, x, Streams.of(0, 16))
    torch.testing.assert_close(got, model.log_prob(x), atol=0.01, rtol=0)


@pytest.mark.parametrize("schedule", [LinearVP(), RectifiedFlow()], ids=str)
def test_within_a_hundredth_of_a_nat_in_64d(schedule):
    """Linear VP keeps alpha(1) = .0066 of the signal: left out of the prior, it alone would cost .035 nats."""
    model = mixture(Gaussian(schedule), 64, [0.05, 0.2, 0.1, 0.15])
    x = model.sample(Streams.of(1, 4)).double()
    got = Likelihood(Exact(), steps=32)(oracle(model), model.process, x, Streams.of(0, 4))
    torch.testing.assert_close(got, model.log_prob(x), atol=0.01, rtol=0)


def test_hutchinson_is_unbiased():
    """One x, 300 probes: the mean within 5 standard errors of the exact value (two-sided, 299 degrees of freedom: 1e-6)."""
    model = mixture(Gaussian(RectifiedFlow()), 2, [0.05, 0.2, 0.1, 0.15])
    x = model.sample(Streams.of(2, 1)).double()
    exact = Likelihood(Exact(), steps=24)(oracle(model), model.process, x, Streams.of(0, 1))
    for count in (1, 3):
        many = Likelihood(Hutchinson(count), steps=24)(oracle(model), model.process, x.expand(300, 2), Streams.of(3, 300))
        assert float(many.std()) > 1e-4  # it is an estimate indeed
        assert abs(float(many.mean() - exact)) < 5 * float(many.std()) / math.sqrt(300)


def test_hutchinson_is_exact_where_the_jacobian_is_diagonal():
    model = ExactGaussian(Gaussian(Cosine()), torch.tensor([0.5, -1.0, 0.0]), torch.diag(torch.tensor([0.3, 1.0, 2.0])))
    x = model.sample(Streams.of(4, 8)).double()
    got = Likelihood(Hutchinson(), steps=48)(lambda x, t: model(x, t), model.process, x, Streams.of(0, 8))
    torch.testing.assert_close(got, model.log_prob(x), atol=1e-3, rtol=0)


def test_refusals():
    with pytest.raises(InputError, match="this one is Masked"):
        Likelihood()(lambda x, t: None, Masked((3,)), torch.zeros(1, 2), Streams.of(0, 1))
    with pytest.raises(InputError, match="noise_min"):
        Likelihood(noise_min=0)

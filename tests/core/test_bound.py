"""Bits per dimension against true likelihoods: with the exact denoiser the bound is tight."""

import math

import pytest
import torch

from unnoise.core.bound import Levels, VariationalBound
from unnoise.core.denoisers import Denoiser
from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactFinite, ExactGaussian, ExactMixture
from unnoise.core.predictions import Mean
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import EDM, Cosine, DiscreteVP, LinearVP, RectifiedFlow
from unnoise.core.state import Batch

SCHEDULES = [LinearVP(), DiscreteVP(), Cosine(), EDM(), RectifiedFlow(2.0)]


def excess(objective, denoiser, x, bits, draws=16):
    """Bound - truth in bits per dimension, sample by sample averaged over draws: mean and standard error."""
    rng = Streams.of(9, len(x))
    means = torch.stack([objective.losses(denoiser, Batch(x), rng.at(j))[0].double() for j in range(draws)]).mean(0)
    gap = means - bits
    return float(gap.mean()), float(gap.std()) / math.sqrt(len(gap))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_tight_for_a_gaussian_and_a_mixture(schedule):
    """Within 5 standard errors (false alarm 6e-7) and 0.01 bits, for what float32 and l < 15 leave."""
    process, n = Gaussian(schedule), 1024
    for denoiser, dims in [
        (ExactGaussian(process, torch.zeros(2), torch.tensor([[0.5, 0.2], [0.2, 0.3]])), 2),
        (ExactMixture(process, [0.3, 0.7], torch.tensor([[-1.0], [0.8]]), [0.05, 0.1]), 1),
    ]:
        x = denoiser.sample(Streams.of(1, n))
        bits = -denoiser.log_prob(x) / dims / math.log(2)
        mean, error = excess(VariationalBound(levels=None, log_snr_max=15.0), denoiser, x, bits)
        assert error < 0.07
        assert abs(mean) < 5 * error + 0.01


def test_tight_for_a_single_datum():
    """Many draws of it: its own -log p, not only the average."""
    process = Gaussian(RectifiedFlow())
    denoiser = ExactMixture(process, [0.3, 0.7], torch.tensor([[-1.0], [0.8]]), [0.05, 0.1])
    for x in (-1.2, 0.1, 0.8):
        data = torch.full((2048, 1), x)
        mean, error = excess(
            VariationalBound(levels=None, log_snr_max=15.0), denoiser, data, -denoiser.log_prob(data) / math.log(2)
        )
        assert error < 0.07
        assert abs(mean) < 5 * error + 0.01


class EachAlone(Denoiser):
    """A denoiser of single numbers, applied to every number of the state."""

    def __init__(self, single):
        super().__init__()
        self.process, self.single = single.process, single

    def forward(self, x_t, t, cond):
        return Mean(self.single(x_t.reshape(-1, 1), t.repeat_interleave(x_t[0].numel())).x0.reshape(x_t.shape))


def test_discrete_levels_have_the_entropy_of_the_data():
    """Independent pixels with 4 of 256 levels of known probabilities: the bound is -log2 p, on average 1.75 bits."""
    levels = torch.linspace(-1, 1, 256)[[10, 11, 100, 200]][:, None]
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    single = ExactFinite(Gaussian(Cosine()), levels, p)
    x = single.sample(Streams.of(2, 256 * 64)).reshape(256, 64)
    rows = (x[..., None] == levels[:, 0]).double().argmax(-1)
    mean, error = excess(VariationalBound(), EachAlone(single), x, -p.double()[rows].log2().mean(1))
    assert error < 0.05
    assert abs(mean) < 5 * error + 0.01


def test_what_the_prior_leaves_out_is_paid_for():
    """DiscreteVP ends with signal left: for large data the KL to the prior is e^l(1) x^2 / 2."""
    process = Gaussian(DiscreteVP(50, 0.002, 0.05))
    denoiser = ExactGaussian(process, torch.tensor([3.0]), 0.01)
    x = denoiser.sample(Streams.of(3, 1024))
    one = torch.ones(1, dtype=torch.float64)
    a, s = process.schedule.alpha(one), process.schedule.sigma(one)
    # the model's own law starts at N(0, s^2) where the data's is N(3 a, .01 a^2 + s^2): the excess is the KL between the two
    v = 0.01 * a**2 + s**2
    kl = 0.5 * (v / s**2 + (3 * a) ** 2 / s**2 - 1 - (v / s**2).log()) / math.log(2)
    mean, error = excess(VariationalBound(levels=None, log_snr_max=15.0), denoiser, x, -denoiser.log_prob(x) / math.log(2))
    assert abs(mean - float(kl)) < 5 * error + 0.01


def test_a_worse_denoiser_has_a_higher_bound():
    process = Gaussian(RectifiedFlow())
    exact = ExactGaussian(process, torch.zeros(1), 0.25)

    class Worse(ExactGaussian):
        def forward(self, x_t, t, cond=None):
            return Mean(0.8 * super().forward(x_t, t, cond).x0)

    x = exact.sample(Streams.of(4, 2048))
    bound = VariationalBound(levels=None)
    good, bad = (excess(bound, d, x, 0.0, draws=1) for d in (exact, Worse(process, torch.zeros(1), 0.25)))
    assert bad[0] - good[0] > 10 * math.hypot(good[1], bad[1])


def test_refusals():
    denoiser = ExactGaussian(Gaussian(Cosine()), torch.zeros(1), 1.0)
    with pytest.raises(InputError, match="levels=None"):
        VariationalBound().losses(denoiser, Batch(torch.full((2, 1), 0.123)), Streams.of(0, 2))
    with pytest.raises(InputError, match="levels=None"):
        VariationalBound().losses(denoiser, Batch(torch.full((2, 1), 3.0)), Streams.of(0, 2))
    with pytest.raises(InputError, match="above"):
        VariationalBound(log_snr_max=-25.0).losses(denoiser, Batch(torch.ones(2, 1)), Streams.of(0, 2))
    with pytest.raises(InputError, match="2 levels"):
        Levels(1)


def test_levels_read_off_the_mean_are_tight_where_the_posterior_is_normal():
    """Normal data in fine levels: p(x | x_0') is normal around the mean with variance c / (1 + c e^l), at any end of the path."""
    c, levels, l = 0.09, Levels(256), 3.0
    step = 2 / 255
    process = Gaussian(RectifiedFlow())
    denoiser = ExactGaussian(process, torch.zeros(4), c * torch.eye(4))
    x = (((denoiser.sample(Streams.of(1, 2048)).clamp(-1, 1) + 1) / step).round() * step - 1).float()
    normal = torch.distributions.Normal(0.0, math.sqrt(c))
    bits = -(normal.cdf(x.double() + step / 2) - normal.cdf(x.double() - step / 2)).log2().mean(1)
    width = math.sqrt(c / (1 + c * math.exp(l)))
    mean, error = excess(VariationalBound(levels, l, width), denoiser, x, bits)
    assert error < 0.02
    assert abs(mean) < 5 * error + 0.005  # 6e-7; the levels' own width and the clamped tail
    alone, _ = excess(VariationalBound(levels, l), denoiser, x, bits)
    assert alone > mean + 0.1  # x_0' alone leaves what the prior knows unused

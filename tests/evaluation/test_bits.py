"""Bits per dimension against closed forms.

A network starts as a zero map, and then EDM's preconditioner is the exact denoiser of N(0, data_std^2) and logits of 0 that of
evenly spread categories: a whole model whose likelihood is known, without training.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import tiny_config

from unnoise.core.bound import Levels
from unnoise.core.codec import UnconditionalConfig
from unnoise.core.denoisers import Denoiser
from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactGaussian, ExactTorus
from unnoise.core.predictions import Fields, Logits, Mean
from unnoise.core.processes import Gaussian, Masked, Product, Torus, UniformCategorical
from unnoise.core.random import Streams
from unnoise.core.schedules import Cosine, RectifiedFlow
from unnoise.core.state import Batch
from unnoise.evaluation.likelihood import CONTINUOUS, ENDS, bits_per_dimension, bound_nats, likelihood_section, ode_nats, tightest
from unnoise.modalities.image.measure import Pictures
from unnoise.modalities.table.measure import TableRows
from unnoise.modalities.table.read import read_table
from unnoise.model import ModelConfig
from unnoise.networks.table import TableNetworkConfig
from unnoise.samplers.likelihood import Exact, Likelihood


def level_pictures(seed, n):
    """8 x 8 pixels, independent normal of deviation 0.5 in the units of [-1, 1], the tails left out."""
    x = np.random.default_rng(seed).normal(0, 0.5, (n, 8, 8, 1)).clip(-0.99, 0.99)
    return np.round(127.5 + 127.5 * x).astype(np.uint8)


def discrete_bits(pixels):
    """-log2 of the normal's mass within half a level of each pixel, per dimension: (N,)."""
    x = pixels.reshape(len(pixels), -1) / 127.5 - 1
    mass = stats.norm.cdf(x + 1 / 255, 0, 0.5) - stats.norm.cdf(x - 1 / 255, 0, 0.5)
    return torch.from_numpy(-np.log2(mass).mean(1))


def assert_mean(gap, slack):
    """The mean of independent gaps is 0 within 5 standard errors (false alarm 6e-7) and what approximations leave."""
    assert abs(float(gap.mean())) < 5 * float(gap.std()) / math.sqrt(len(gap)) + slack


def test_pictures_have_the_bits_of_their_distribution():
    pixels = level_pictures(0, 96)
    model = tiny_config().build()
    bits = bits_per_dimension(model, Pictures.of(pixels), method=ENDS[5])  # sigma = one level
    assert bits.dtype == torch.float64
    gap = bits - discrete_bits(pixels)
    assert float(gap.std()) < 0.4
    assert_mean(gap, 0.02)
    # reading off at sigma = 1/6 of a level costs a network that knows no levels log2(6 / sqrt(2 pi e)) = 0.54 bits
    late = bits_per_dimension(model, Pictures.of(pixels), method=ENDS[-1]) - discrete_bits(pixels)
    assert_mean(late - math.log2(6 / math.sqrt(2 * math.pi * math.e)), 0.03)
    assert tightest(model, Pictures.of(pixels)) != ENDS[-1]


def test_the_ode_has_them_too_row_by_row():
    """The Jacobian is diagonal, so random signs give its trace exactly; dequantising moves a row by hundredths of a bit."""
    pixels = level_pictures(1, 8)
    bits = bits_per_dimension(tiny_config().build(), Pictures.of(pixels), method=Likelihood(steps=24))
    assert torch.allclose(bits, discrete_bits(pixels), atol=0.02)


def test_rows_do_not_depend_on_the_batch():
    model, pictures = tiny_config().build(), Pictures.of(level_pictures(2, 7))
    one, other = (bits_per_dimension(model, pictures, seed=3, draws=2, batch=b) for b in (7, 2))
    assert torch.allclose(one, other, rtol=1e-4)
    told = bits_per_dimension(model, pictures, ["zero", None] * 3 + ["one"], seed=3, draws=2)
    assert torch.allclose(one, told, rtol=1e-4)  # the zero map does not listen


def test_tables_have_the_bits_of_their_columns(tmp_path):
    """Numbers: the density of a standard normal at their scores; categories: log2 of how many there are."""
    rng = np.random.default_rng(4)
    lines = [
        f"{x:.4f},{'abc'[k]},{'xy'[j]}"
        for x, k, j in zip(rng.normal(5, 2, 200), rng.integers(3, size=200), rng.integers(2, size=200))
    ]
    path = tmp_path / "t.csv"
    path.write_text("number,kind,side\n" + "\n".join(lines) + "\n")
    data = read_table(path)
    config = data.config
    network = TableNetworkConfig(fields=config.network_fields(), width=16, depth=1, vector_dim=0)
    model = ModelConfig(config, UnconditionalConfig(), network, config.process(), config.preconditioner()).build()
    bits = bits_per_dimension(model, TableRows.read(data), draws=64)
    z = model.codec.encode(data.table)["numeric"][:, 0].double()
    truth = (0.5 * z**2 + 0.5 * math.log(2 * math.pi)) / math.log(2) + math.log2(3) + 1
    assert_mean(bits - truth / 3, 0.02)
    with pytest.raises(InputError, match="of a table, and the model"):
        bits_per_dimension(tiny_config().build(), TableRows.read(data))


class Dependent(Denoiser):
    """Exact for a category c of two, P(c = 1) = p, and a number N(m_c, v) given it."""

    m, v, p = torch.tensor([-1.0, 1.5]).double(), 0.2, torch.tensor([0.3, 0.7]).double()

    def __init__(self, categories):
        super().__init__()
        self.process = Product({"x": Gaussian(RectifiedFlow()), "c": categories})

    def forward(self, x_t, t, cond=None):
        x, c = x_t["x"].double(), x_t["c"]
        schedule, other = self.process.fields["x"].schedule, self.process.fields["c"]
        alpha, sigma = schedule.alpha(t)[:, None].double(), schedule.sigma(t)[:, None].double()
        variance = alpha**2 * self.v + sigma**2
        kept, k = other.schedule.alpha(t)[:, None].double(), torch.arange(2)
        if isinstance(other, Masked):
            seen = torch.where(c == other.largest, torch.ones(1, dtype=torch.float64), (c == k).double())
        else:
            seen = kept * (c == k) + (1 - kept) / 2
        log_p = self.p.log() + seen.clamp(min=1e-300).log() - 0.5 * (x - alpha * self.m) ** 2 / variance
        p = log_p.softmax(1)
        each = self.m + alpha * self.v / variance * (x - alpha * self.m)
        return Fields({"x": Mean((p * each).sum(1, keepdim=True).float()), "c": Logits(p.log()[:, None].clamp(min=-700).float())})


@pytest.mark.parametrize("categories", [Masked((2,)), UniformCategorical((2,))], ids=["masked", "uniform"])
def test_the_bound_of_dependent_fields_is_that_of_their_joint_law(categories):
    denoiser, rng = Dependent(categories), np.random.default_rng(5)
    c = (rng.random(2000) < 0.7).astype(np.int64)
    x = rng.normal(denoiser.m.numpy()[c], math.sqrt(denoiser.v))
    truth = torch.from_numpy(-np.log(denoiser.p.numpy()[c]) - stats.norm.logpdf(x, denoiser.m.numpy()[c], math.sqrt(denoiser.v)))
    batch = Batch({"x": torch.from_numpy(x).float()[:, None], "c": torch.from_numpy(c)[:, None]})
    streams = Streams.of(6, 2000)
    nats = torch.stack([bound_nats(denoiser, batch, streams.at(j), CONTINUOUS) for j in range(8)]).mean(0)
    assert float((nats - truth).std()) < 2.5
    assert_mean(nats - truth, 0.02)
    # the sum of the fields' own entropies is more by their mutual information: were the other field not seen, it would be this
    inside = [0.3 * stats.norm.pdf(v, -1, 0.2**0.5) + 0.7 * stats.norm.pdf(v, 1.5, 0.2**0.5) for v in x]
    alone = -np.mean(np.log(inside)) - (0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    assert alone - float(truth.mean()) > 0.4
    assert float(nats.mean()) < alone - 0.3


def test_the_ode_of_continuous_data_is_its_density():
    denoiser = ExactGaussian(Gaussian(Cosine()), torch.zeros(3), torch.diag(torch.tensor([0.3, 0.5, 1.0])))
    x = denoiser.sample(Streams.of(7, 20))
    nats = ode_nats(denoiser, Batch(x), Streams.of(8, 20), None, Likelihood(Exact(), steps=32))
    assert torch.allclose(nats, -denoiser.log_prob(x), atol=0.01)
    step = Levels(1001, -10.0, 10.0)
    rounded = (x / 0.02).round() * 0.02
    nats = ode_nats(denoiser, Batch(rounded), Streams.of(8, 20), step, Likelihood(Exact(), steps=32))
    assert torch.allclose(nats, -denoiser.log_prob(rounded) - 3 * math.log(0.02), atol=0.15)


def test_the_section_gives_both_means_and_their_gap():
    rng = np.random.default_rng(9)
    held, train = rng.normal(3.2, 0.3, 80), rng.normal(3.0, 0.3, 120)
    section = likelihood_section(torch.from_numpy(held), torch.from_numpy(train), "A bound.")
    first, second, gap = section.measures
    assert (first.low, first.high) == pytest.approx(stats.t.interval(0.95, 79, held.mean(), stats.sem(held)))
    assert second.value == pytest.approx(train.mean())
    welch = stats.ttest_ind(held, train, equal_var=False).confidence_interval(0.95)
    assert (gap.low, gap.high) == pytest.approx(tuple(welch))
    assert section.notes == ("A bound.",)
    assert section.drawings[0].png.startswith(b"\x89PNG")
    alone = likelihood_section(torch.from_numpy(held))
    assert [m.name for m in alone.measures] == ["bits per dimension"]
    assert "at least 2" in likelihood_section(torch.ones(1)).notes[0]


def test_refusals():
    model, pictures = tiny_config().build(), Pictures.of(level_pictures(0, 3))
    with pytest.raises(InputError, match="2 prompts for 3 rows"):
        bits_per_dimension(model, pictures, [None, None])
    with pytest.raises(InputError, match="do not fit"):
        bits_per_dimension(model, Pictures.of(np.zeros((2, 4, 4, 1), np.uint8)))
    torus = ExactTorus(Torus(RectifiedFlow()), torch.zeros(1, 2))
    with pytest.raises(InputError, match="Torus"):
        bound_nats(torus, Batch(torch.zeros(2, 2)), Streams.of(0, 2), CONTINUOUS)

"""Objectives with exact denoisers, whose losses have closed forms."""

import math

import pytest
import torch
from torch import nn

from unnoise.core.denoisers import Denoiser, NetworkDenoiser, middle
from unnoise.core.errors import InputError
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising, DenoisingTwice, LearnedUncertainty, PerSample, SlicedScoreMatching
from unnoise.core.oracles import ExactGaussian, ExactMixture
from unnoise.core.preconditioning import Data, Velocity
from unnoise.core.predictions import Mean
from unnoise.core.processes import Gaussian, Masked
from unnoise.core.random import Streams
from unnoise.core.schedules import EDM, Cosine, LinearVP, RectifiedFlow
from unnoise.core.state import Batch, expand
from unnoise.core.times import LogitNormal, LowDiscrepancy, UniformTimes
from unnoise.core.weights import DataWeight, Simple

SCHEDULES = [LinearVP(), Cosine(), EDM(), RectifiedFlow()]


class Linear(Denoiser):
    """x0_hat = gain(t) x_t, right or wrong."""

    def __init__(self, process, gain):
        super().__init__()
        self.process, self.gain, self.scale = process, gain, nn.Parameter(torch.ones(()))

    def forward(self, x_t, t, cond):
        return Mean(self.scale * expand(self.gain(t), x_t) * x_t)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_denoising_an_exact_gaussian(schedule):
    """E |x - E[x|x_t]|^2 = d^2 s^2 / (a^2 d^2 + s^2), sample for sample as its own time says."""
    n, dims, d = 64, 4000, 0.6
    process = Gaussian(schedule)
    denoiser = Linear(process, lambda t: schedule.alpha(t) * d**2 / (schedule.alpha(t) ** 2 * d**2 + schedule.sigma(t) ** 2))
    rng = Streams.of(1, n)
    out = Denoising(SquaredError(DataWeight()))(denoiser, Batch(d * rng.normal("data", (dims,))), rng)
    t = out["time"]
    want = d**2 * schedule.sigma(t) ** 2 / (schedule.alpha(t) ** 2 * d**2 + schedule.sigma(t) ** 2)
    # each is a mean of 4000 squares of normals: relative deviation sqrt(2/4000) = 0.0224; 6 of them: 64 * 4 * 2e-9 = 5e-7
    assert ((out["per_sample"].double() - want).abs() < 6 * 0.0224 * want + 1e-7).all()
    torch.testing.assert_close(out["loss"], out["per_sample"].mean())
    assert not out["per_sample"].requires_grad
    out["loss"].backward()


def test_a_samples_loss_does_not_depend_on_its_batch():
    denoiser = ExactGaussian(Gaussian(Cosine()), torch.zeros(3), 1.0)
    rng = Streams.of(2, 8).at(5)
    x = rng.normal("data", (3,))
    for times in (UniformTimes(), LowDiscrepancy(LogitNormal())):
        objective = Denoising(SquaredError(), times)
        whole = objective(denoiser, Batch(x), rng)["per_sample"]
        parts = [objective(denoiser, Batch(x[i : i + 2]), rng[i : i + 2])["per_sample"] for i in range(0, 8, 2)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_score_matching_of_a_linear_score(schedule):
    """s = k x_t with k = (a g - 1) / sigma^2: the loss is sigma^2 (k + k^2 |x_t|^2 / 2 / dims), whatever the directions."""
    process, n = Gaussian(schedule), 32
    denoiser = Linear(process, lambda t: 0.3 + 0.5 * t)
    rng = Streams.of(3, n)
    x, objective = rng.normal("data", (2, 5)), SlicedScoreMatching(slices=2)
    out = objective(denoiser, Batch(x), rng)
    t = out["time"]
    x_t = process.corrupt(x, t, rng).x_t.double()
    a, s = schedule.alpha(t), schedule.sigma(t)
    k = (a * (0.3 + 0.5 * t) - 1) / s**2
    want = s**2 * (k + 0.5 * k**2 * (x_t**2).mean((1, 2)))
    torch.testing.assert_close(out["per_sample"].double(), want, rtol=1e-4, atol=1e-4)
    out["loss"].backward()
    assert denoiser.scale.grad.isfinite()


def test_score_matching_of_a_mixture_against_its_density():
    """One dimension, so one direction is all of them: s and s' by central differences of log p(x_t)."""
    process, n = Gaussian(LinearVP()), 64
    mixture = ExactMixture(process, [0.3, 0.7], torch.tensor([[-1.0], [2.0]]), [0.2, 0.5])
    rng = Streams.of(4, n)
    x = mixture.sample(rng)
    out = SlicedScoreMatching(LogitNormal())(mixture, Batch(x), rng)
    t, h = out["time"], 1e-3
    x_t = process.corrupt(x, t, rng).x_t.double()
    up, mid, down = (mixture.log_prob(x_t + e, t) for e in (h, 0, -h))
    score, slope = (up - down) / (2 * h), (up - 2 * mid + down) / h**2
    want = process.schedule.sigma(t) ** 2 * (slope + 0.5 * score**2)
    torch.testing.assert_close(out["per_sample"].double(), want, rtol=1e-3, atol=1e-3)


def test_both_objectives_have_the_same_minimum():
    """Denoising's noise error = 2 score matching + 1 in expectation: their gradients agree, zero at the exact denoiser."""
    process, n = Gaussian(RectifiedFlow()), 20_000
    a, s = process.schedule.alpha, process.schedule.sigma
    denoiser = Linear(process, lambda t: a(t) / (a(t) ** 2 + s(t) ** 2))
    rng = Streams.of(5, n)
    x = rng.normal("data")[:, None]
    for objective in (Denoising(SquaredError(Simple()), LogitNormal()), SlicedScoreMatching(LogitNormal())):
        losses, _ = objective.losses(denoiser, Batch(x), rng)
        (whole,) = torch.autograd.grad(losses.mean(), denoiser.scale, retain_graph=True)
        parts = torch.stack([torch.autograd.grad(c.mean(), denoiser.scale, retain_graph=True)[0] for c in losses.split(200)])
        assert whole.abs() < 6 * parts.std() / math.sqrt(len(parts))  # Student, 99 degrees of freedom: false alarm 4e-8


class Heads(nn.Module):
    """Says first * x, and halfway second * x."""

    def __init__(self, first, second, has_middle=True):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.tensor(first)), nn.Parameter(torch.tensor(second))
        self.has_middle = has_middle

    def forward(self, x, noise_level, cond):
        return self.first * x

    def both(self, x, noise_level, cond):
        return self.first * x, self.second * x


@pytest.mark.parametrize("preconditioner", [Data(), Velocity()], ids=str)
def test_both_heads_are_trained_as_two_denoisers_on_the_same_noise(preconditioner):
    """Loss and gradients are those of two networks trained apart, the second's times its share."""
    process, rng = Gaussian(RectifiedFlow()), Streams.of(6, 16)
    batch, plain = Batch(rng.normal("data", (3,))), Denoising(SquaredError(Simple()), LogitNormal())
    heads = Heads(0.7, -0.3)
    together = NetworkDenoiser(heads, process, preconditioner)
    out = DenoisingTwice(plain, share=0.25)(together, batch, rng)
    out["loss"].backward()
    alone = [NetworkDenoiser(Heads(f, 0.0), process, preconditioner) for f in (0.7, -0.3)]
    losses = [plain(denoiser, batch, rng) for denoiser in alone]
    for a in losses:
        a["loss"].backward()
    torch.testing.assert_close(out["loss"], losses[0]["loss"] + 0.25 * losses[1]["loss"])
    torch.testing.assert_close(out["per_sample"], losses[0]["per_sample"] + 0.25 * losses[1]["per_sample"])
    torch.testing.assert_close(heads.first.grad, alone[0].network.first.grad)
    torch.testing.assert_close(heads.second.grad, 0.25 * alone[1].network.first.grad)
    t = torch.full((16,), 0.3, dtype=torch.float64)
    said = middle(together)(batch.x, t, {})
    torch.testing.assert_close(said.x0, alone[1](batch.x, t, {}).x0)
    torch.testing.assert_close(together.both(batch.x, t, {})[0].x0, together(batch.x, t, {}).x0)


def test_a_denoiser_without_a_middle_head_is_refused():
    process = Gaussian(RectifiedFlow())
    for denoiser in (
        ExactGaussian(process, torch.zeros(3), 1.0),
        NetworkDenoiser(Heads(1.0, 1.0, has_middle=False), process, Data()),
        NetworkDenoiser(nn.Identity(), process, Data()),
    ):
        with pytest.raises(InputError, match="no middle head"):
            middle(denoiser)
        with pytest.raises(InputError, match="no middle head"):
            DenoisingTwice(Denoising(SquaredError()))(denoiser, Batch(torch.zeros(2, 3)), Streams.of(0, 2))


class Known(PerSample):
    """Losses e^(1 - 2 t)."""

    def losses(self, denoiser, batch, rng):
        t = UniformTimes().draw(rng, denoiser.process)
        return (1 - 2 * t).exp().float(), t


def test_learned_uncertainty_finds_the_log_of_the_loss():
    """loss / e^u + u is least at u = log loss; it starts as the plain loss."""
    torch.manual_seed(0)
    denoiser, batch = Linear(Masked((2,)), torch.ones_like), Batch(torch.zeros(256, 1))
    objective = LearnedUncertainty(Known(), features=32)
    first = objective(denoiser, batch, Streams.of(0, 256))
    torch.testing.assert_close(first["loss"], first["per_sample"].mean())
    optimiser = torch.optim.LBFGS(objective.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = objective(denoiser, batch, Streams.of(0, 256))["loss"]
        loss.backward()
        return loss

    optimiser.step(closure)
    t = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)
    with torch.no_grad():
        assert (objective.uncertainty(denoiser.process, t) - (1 - 2 * t)).abs().max() < 0.02

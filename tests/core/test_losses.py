"""Losses against torch's own, autograd of the closed-form densities, and bounds that are tight for exact denoisers."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from unnoise.core.errors import InputError
from unnoise.core.losses import CategoricalBound, CrossEntropy, FieldLosses, SquaredError, TangentError
from unnoise.core.oracles import ExactCategorical
from unnoise.core.predictions import Fields, Logits, Mean, Tangent
from unnoise.core.processes import Gaussian, Masked, Product, Torus, UniformCategorical
from unnoise.core.random import Streams
from unnoise.core.schedules import VE, Cosine, RectifiedFlow
from unnoise.core.weights import DataWeight, Simple

G = torch.Generator().manual_seed(0)
T = torch.tensor([0.2, 0.7], dtype=torch.float64)


def test_squared_error_of_the_noise():
    process = Gaussian(Cosine())
    x, e, guess = (torch.randn(2, 3, 4, generator=G) for _ in range(3))
    x_t = process.mix(x, e, T)
    a, s = process.schedule.alpha(T)[:, None, None], process.schedule.sigma(T)[:, None, None]
    e_guess = (x_t - a * guess) / s
    got = SquaredError(Simple())(process, Mean(guess), x, x_t, T)
    torch.testing.assert_close(got.double(), ((e - e_guess) ** 2).mean((1, 2)), rtol=1e-4, atol=0)
    torch.testing.assert_close(SquaredError(DataWeight())(process, Mean(guess), x, x_t, T), ((x - guess) ** 2).mean((1, 2)))


def test_cross_entropy_against_torchs():
    logits, x = torch.randn(2, 5, 3, generator=G), torch.randint(3, (2, 5), generator=G)
    each = cross_entropy(logits.flatten(0, 1), x.flatten(), reduction="none").reshape(2, 5)
    uniform = CrossEntropy()(UniformCategorical((3,)), Logits(logits), x, x, T)
    torch.testing.assert_close(uniform, each.mean(1))
    x_t = x.clone()
    x_t[:, [1, 4]] = 3
    masked = CrossEntropy()(Masked((3,)), Logits(logits), x, x_t, T)
    torch.testing.assert_close(masked, each[:, [1, 4]].sum(1) / 5)
    bound = CategoricalBound()(Masked((3,), Cosine()), Logits(logits), x, x_t, T)
    rate = -Cosine().d_alpha(T) / (1 - Cosine().alpha(T))
    torch.testing.assert_close(bound, rate.float() * masked)


def expected_bound(process, denoise, x_0):
    """CategoricalBound of one sequence, in nats: every x_t, and t = 1 / (1 + e^-y) by trapezoids in y."""
    y = torch.linspace(-20, 20, 801, dtype=torch.float64)
    t, dt = y.sigmoid(), y.sigmoid() * (-y).sigmoid() * (y[1] - y[0])
    a = process.schedule.alpha(t)
    total = torch.zeros((), dtype=torch.float64)
    for x_t in itertools.product(range(process.tokens()), repeat=len(x_0)):
        q = torch.ones_like(t)
        for size, true, now in zip(process.sizes, x_0, x_t):
            lost = float(now == process.largest) if isinstance(process, Masked) else float(now < size) / size
            q = q * (a * (now == int(true)) + (1 - a) * lost)
        if bool((q > 0).any()):
            here, data = torch.tensor(x_t).expand(len(t), -1), x_0.expand(len(t), -1)
            total += (dt * q * CategoricalBound()(process, denoise(here, t), data, here, t).double()).sum()
    return float(total) * len(x_0)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), Cosine()], ids=str)
@pytest.mark.parametrize("kind", [Masked, UniformCategorical])
def test_categorical_bound_is_tight(kind, schedule):
    """Correlated columns of 3 and 2 categories, the exact posterior: the bound is -log p(x_0) for every x_0."""
    process = kind((3, 2), schedule)
    sequences = torch.tensor(list(itertools.product(range(3), range(2))))
    p = torch.tensor([0.3, 0.05, 0.02, 0.33, 0.1, 0.2], dtype=torch.float64)
    denoiser = ExactCategorical(process, sequences, p)
    for x_0, p_0 in zip(sequences, p):
        assert expected_bound(process, denoiser, x_0) == pytest.approx(-math.log(p_0), abs=1e-4)


def test_masked_bound_of_independent_positions_is_their_cross_entropy():
    """A denoiser that says r whatever it sees models independent positions of probabilities r."""
    r = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    for x_0 in (torch.tensor([0, 1]), torch.tensor([2, 2])):
        got = expected_bound(Masked((3, 3)), lambda x, t: Logits(r.log().expand(*x.shape, 3)), x_0)
        assert got == pytest.approx(-float(r[x_0].log().sum()), abs=1e-4)


def test_a_wrong_denoiser_pays_more_than_the_bound():
    process, sequences = UniformCategorical((3,)), torch.tensor([[0], [1], [2]])
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    wrong = ExactCategorical(process, sequences, [0.2, 0.5, 0.3])
    mean = sum(float(w) * expected_bound(process, wrong, x_0) for w, x_0 in zip(p, sequences))
    want = -float((p * torch.tensor([0.2, 0.5, 0.3]).log()).sum())  # entropy + KL
    assert mean == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("t", [0.2, 0.6, 1.0])
def test_tangent_target_is_the_score_of_the_wrapped_normal(t):
    """TangentError vanishes at sigma^2 grad log q(x_t | x_0), with q summed over turns here and differentiated by autograd."""
    process = Torus(VE(0.01 * math.pi, 2 * math.pi))
    time = torch.full((50,), t, dtype=torch.float64)
    x_0, x_t = (torch.rand(50, 2, dtype=torch.float64, generator=G) * 2 * math.pi - math.pi for _ in range(2))
    sigma = process.schedule.sigma(time)[:, None]
    x = x_t.clone().requires_grad_(True)
    turns = 2 * math.pi * torch.arange(-40, 41, dtype=torch.float64)
    log_q = (-(((x - x_0)[..., None] + turns) ** 2) / (2 * sigma[..., None] ** 2)).logsumexp(-1)
    (score,) = torch.autograd.grad(log_q.sum(), x)
    assert TangentError()(process, Tangent(sigma**2 * score), x_0, x_t, time).max() < 1e-20
    off = TangentError()(process, Tangent(sigma**2 * score + 0.3 * sigma), x_0, x_t, time)
    torch.testing.assert_close(off, torch.full((50,), 0.09), rtol=1e-5, atol=0)


def test_field_losses_are_weighted_sums():
    process = Product({"x": Gaussian(RectifiedFlow()), "type": Masked((3,))})
    x_0 = {"x": torch.randn(2, 3, generator=G), "type": torch.randint(3, (2, 4), generator=G)}
    x_t = process.corrupt(x_0, T, Streams.of(0, 2)).x_t
    said = Fields({"x": Mean(torch.zeros(2, 3)), "type": Logits(torch.randn(2, 4, 3, generator=G))})
    losses = FieldLosses({"x": (SquaredError(DataWeight()), 2.0), "type": (CrossEntropy(), 0.5)})
    one = SquaredError(DataWeight())(process.fields["x"], said.fields["x"], x_0["x"], x_t["x"], T)
    two = CrossEntropy()(process.fields["type"], said.fields["type"], x_0["type"], x_t["type"], T)
    torch.testing.assert_close(losses(process, said, x_0, x_t, T), 2 * one + 0.5 * two)
    assert set(losses.each(process, said, x_0, x_t, T)) == {"x", "type"}
    with pytest.raises(InputError, match="same fields"):
        FieldLosses({"x": (SquaredError(), 1.0)})(process, said, x_0, x_t, T)


def test_losses_refuse_foreign_processes():
    x, sure = torch.zeros(2, 3), torch.zeros(2, 3, 2)
    for loss, said, process in [
        (SquaredError(), Mean(x), Masked((3,))),
        (CrossEntropy(), Logits(sure), Gaussian(Cosine())),
        (CategoricalBound(), Logits(sure), Gaussian(Cosine())),
        (CrossEntropy(), Mean(x), Masked((3,))),
        (TangentError(), Tangent(x), Gaussian(Cosine())),
        (TangentError(), Mean(x), Torus()),
    ]:
        with pytest.raises(InputError):
            loss(process, said, x.long(), x.long(), T)

"""Every target's definition, solved for the data; what the network sees; what is refused."""

import math

import pytest
import torch

from unnoise.core import preconditioning
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import (
    EDM,
    AboutPicture,
    Affine,
    AtLogSigma,
    Categories,
    Circular,
    Data,
    Noise,
    PerField,
    Score,
    V,
    Velocity,
)
from unnoise.core.predictions import Fields, Logits, Mean, Tangent
from unnoise.core.processes import Gaussian, Masked, Product, Torus, UniformCategorical
from unnoise.core.schedules import EDM as EDMSchedule
from unnoise.core.schedules import VE, Cosine, DiscreteVP, LinearVP, RectifiedFlow, SubVP, ZeroTerminal

SCHEDULES = [
    LinearVP(),
    DiscreteVP(),
    ZeroTerminal(DiscreteVP()),
    Cosine(),
    VE(),
    EDMSchedule(),
    SubVP(),
    RectifiedFlow(),
    RectifiedFlow(3.0),
]
D = 0.7

# F as each paper defines it, from x_0, eps, alpha, sigma and their time derivatives
DEFINITIONS = {
    Data: lambda x, e, a, s, da, ds: x,
    Noise: lambda x, e, a, s, da, ds: e,
    Score: lambda x, e, a, s, da, ds: s * (-(a * x + s * e - a * x) / s**2),  # sigma grad log N(x_t; alpha x_0, sigma^2)
    V: lambda x, e, a, s, da, ds: a * e - s * x,
    Velocity: lambda x, e, a, s, da, ds: da * x + ds * e,
    # EDM on x_t / alpha at the noise sigma / alpha: (x - c_skip (x + n)) / c_out with table 1's coefficients
    EDM: lambda x, e, a, s, da, ds: (
        (x - D**2 / ((s / a) ** 2 + D**2) * (x + s / a * e)) / (s / a * D / torch.sqrt(D**2 + (s / a) ** 2))
    ),
}


DEFINITIONS[AtLogSigma] = DEFINITIONS[EDM]


def refused(kind, schedule):
    return kind.divides_by_alpha and isinstance(schedule, Cosine | RectifiedFlow | ZeroTerminal)


def test_every_target_has_a_definition_here():
    kinds = {c for c in vars(preconditioning).values() if isinstance(c, type) and issubclass(c, Affine)} - {Affine}
    assert set(DEFINITIONS) == kinds


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("kind", DEFINITIONS, ids=lambda k: k.__name__)
def test_the_target_by_definition_gives_back_the_data(kind, schedule):
    process, how = Gaussian(schedule), kind(data_std=D)
    if refused(kind, schedule):
        with pytest.raises(InputError, match="zero terminal SNR"):
            how.check(process)
        return
    how.check(process)
    g = torch.Generator().manual_seed(0)
    t = torch.linspace(0.05, 0.99, 40, dtype=torch.float64)
    x, e = (torch.randn(40, 5, dtype=torch.float64, generator=g) for _ in range(2))
    a, s, da, ds = (f(t)[:, None] for f in (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma))
    said = how.after(process, DEFINITIONS[kind](x, e, a, s, da, ds), a * x + s * e, t)
    assert isinstance(said, Mean)
    # what dividing by alpha costs: 1e-16 sigma / alpha
    torch.testing.assert_close(said.x0, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [k for k in DEFINITIONS if not k.divides_by_alpha], ids=lambda k: k.__name__)
def test_about_a_picture_the_target_is_that_of_the_residual(kind):
    schedule = RectifiedFlow()
    process, how = Gaussian(schedule), AboutPicture(kind(data_std=D))
    g = torch.Generator().manual_seed(0)
    t = torch.linspace(0.05, 0.99, 40, dtype=torch.float64)
    x, e, y = (torch.randn(40, 5, dtype=torch.float64, generator=g) for _ in range(3))
    a, s, da, ds = (f(t)[:, None] for f in (schedule.alpha, schedule.sigma, schedule.d_alpha, schedule.d_sigma))
    said = how.told({"picture": y}).after(process, DEFINITIONS[kind](x - y, e, a, s, da, ds), a * x + s * e, t)
    torch.testing.assert_close(said.x0, x, rtol=1e-9, atol=1e-9)
    seen, level = how.told({"picture": y}).before(process, a * x + s * e, t)
    torch.testing.assert_close((seen, level), kind(data_std=D).before(process, a * (x - y) + s * e, t))
    assert how.told({}) == kind(data_std=D)


def test_about_a_picture_edm_knows_what_is_normal_about_it():
    """x_0 ~ N(y, d^2) given y: E[x_0 | x_t, y] = y + a d^2 / (s^2 + a^2 d^2) (x_t - a y), of which a network has nothing to add."""
    process = Gaussian(RectifiedFlow())
    network = NetworkDenoiser(_Nothing(), process, AboutPicture(EDM(D)))
    g = torch.Generator().manual_seed(0)
    x_t, y = (torch.randn(9, 3, 4, 4, dtype=torch.float64, generator=g) for _ in range(2))
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    a, s = ((1 - t)[:, None, None, None], t[:, None, None, None])
    expected = y + a * D**2 / (s**2 + a**2 * D**2) * (x_t - a * y)
    torch.testing.assert_close(network(x_t, t, {"picture": y}).x0, expected)


class _Nothing(torch.nn.Module):
    def forward(self, x, noise_level, cond):
        return torch.zeros_like(x)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_data_v_velocity_and_edm_are_finite_at_both_ends(schedule):
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    for how in (Data(), V(), Velocity(), EDM()):
        endless = isinstance(how, Velocity) and isinstance(schedule, Cosine | LinearVP | DiscreteVP | ZeroTerminal | VE)
        # their noise starts as sqrt(t): its velocity is infinite at t = 0
        skip, out = how.skip_out(schedule, t[1:] if endless else t)
        assert torch.cat([skip, out]).isfinite().all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_unit_variance_in_and_edm_out(schedule):
    """With data of variance D^2: Var(c_in x_t) = 1, Var(F) = 1, and c_skip is the one that makes c_out smallest."""
    process, how = Gaussian(schedule), EDM(D)
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    a, s = schedule.alpha(t), schedule.sigma(t)
    c_in = how.before(process, torch.ones(50, 1, dtype=torch.float64), t)[0][:, 0]
    torch.testing.assert_close(c_in**2 * (a**2 * D**2 + s**2), torch.ones_like(t))
    skip, out = how.skip_out(schedule, t)

    def residual(skip):
        """Var(x_0 - c_skip x_t)."""
        return (1 - skip * a) ** 2 * D**2 + skip**2 * s**2

    torch.testing.assert_close(residual(skip) / out**2, torch.ones_like(t))
    assert (residual(skip) <= residual(skip * 1.01)).all()
    assert (residual(skip) <= residual(skip * 0.99)).all()


def test_the_noise_level_is_edms():
    """c_noise = ln(sigma) / 4 up to sign (2206.00364, table 1), float32, and clamped."""
    t = torch.tensor([0.0, 1e-3, 0.5, 1.0], dtype=torch.float64)
    level = EDM().before(Gaussian(EDMSchedule(80.0)), torch.zeros(4, 1), t)[1]
    assert level.dtype == torch.float32
    torch.testing.assert_close(level[1:].double(), -(80 * t[1:]).log() / 2, rtol=1e-6, atol=1e-6)
    assert level[0] == 5


def test_categories():
    process = Masked((3, 2))
    x_t, t = torch.tensor([[3, 1], [0, 3]]), torch.tensor([0.5, 0.25], dtype=torch.float64)
    seen, level = Categories().before(process, x_t, t)
    assert seen.shape == (2, 2, 4)
    assert torch.equal(seen.argmax(-1), x_t)
    assert torch.equal(level, torch.tensor([0.0, -1.0]))
    said = Categories().after(process, torch.zeros(2, 2, 3), x_t, t)
    assert isinstance(said, Logits)
    torch.testing.assert_close(said.logits.softmax(-1)[0], torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]]))


def test_circular_speaks_in_units_of_sigma():
    process = Torus()
    x, t = torch.tensor([[math.pi / 2, 0.0]]), torch.tensor([0.6], dtype=torch.float64)
    seen, _ = Circular().before(process, x, t)
    torch.testing.assert_close(seen, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), atol=1e-6, rtol=0)
    said = Circular().after(process, torch.tensor([[1.0, -2.0]]), x, t)
    assert isinstance(said, Tangent)
    torch.testing.assert_close(said.v[0].double(), process.schedule.sigma(t) * torch.tensor([1.0, -2.0]), rtol=1e-6, atol=0)


def test_per_field_is_each_fields_own():
    process = Product({"x": Gaussian(Cosine()), "type": Masked((3,))})
    how = PerField({"x": V(), "type": Categories()})
    how.check(process)
    t = torch.tensor([0.3], dtype=torch.float64)
    x_t = {"x": torch.randn(1, 2, generator=torch.Generator().manual_seed(0)), "type": torch.tensor([[3, 1]])}
    out = {"x": torch.ones(1, 2), "type": torch.zeros(1, 2, 3)}
    seen, _ = how.before(process, x_t, t)
    assert torch.equal(seen["x"], V().before(process.fields["x"], x_t["x"], t)[0])
    said = how.after(process, out, x_t, t)
    assert isinstance(said, Fields)
    assert torch.equal(said.fields["x"].x0, V().after(process.fields["x"], out["x"], x_t["x"], t).x0)


@pytest.mark.parametrize(
    ("how", "process"),
    [
        (V(), Masked((3,))),
        (Categories(), Torus()),
        (Circular(), UniformCategorical((3,))),
        (AboutPicture(Noise()), Gaussian(Cosine())),
        (PerField({"x": V()}), Gaussian(Cosine())),
        (PerField({"x": V()}), Product({"y": Gaussian(Cosine())})),
        (PerField({"x": Noise()}), Product({"x": Gaussian(Cosine())})),
    ],
    ids=str,
)
def test_wrong_pairs_are_refused_when_they_are_made(how, process):
    with pytest.raises(InputError):
        NetworkDenoiser(torch.nn.Identity(), process, how)

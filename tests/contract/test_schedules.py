"""One suite over every schedule, and each one's definition from its paper, computed another way."""

import inspect
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from unnoise.core import schedules
from unnoise.core.errors import InputError
from unnoise.core.schedules import (
    EDM,
    VE,
    Cosine,
    DiscreteCosine,
    DiscreteVP,
    LinearVP,
    RectifiedFlow,
    Schedule,
    SubVP,
    ZeroTerminal,
)

ALL = [
    LinearVP(), LinearVP(0.05, 12.0), DiscreteVP(), DiscreteVP(1000, 0.00085, 0.012, 2.0), DiscreteVP(50, 0.002, 0.3), Cosine(),
    Cosine(shift=0.25), DiscreteCosine(), ZeroTerminal(DiscreteVP(1000, 0.00085, 0.012, 2.0)), ZeroTerminal(DiscreteCosine(100)),
    VE(), VE(0.002, 80.0), EDM(), EDM(5.0), SubVP(), RectifiedFlow(), RectifiedFlow(3.0),
]  # fmt: skip
TIMES = torch.linspace(0.003, 0.997, 337, dtype=torch.float64)

every_schedule = pytest.mark.parametrize("schedule", ALL, ids=str)


def test_every_schedule_is_in_the_suite():
    named = {c for c in vars(schedules).values() if isinstance(c, type) and issubclass(c, Schedule)}
    assert {type(s) for s in ALL} == {c for c in named if not inspect.isabstract(c)}


@every_schedule
def test_ends_are_exact(schedule):
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert schedule.alpha(zero) == 1
    assert schedule.sigma(zero) == 0
    assert schedule.log_snr(zero) == math.inf
    if isinstance(schedule, Cosine | RectifiedFlow | ZeroTerminal):  # zero terminal SNR
        assert schedule.alpha(one) == 0
        assert schedule.sigma(one) == 1
        assert schedule.log_snr(one) == -math.inf
    else:
        assert schedule.alpha(one) > 0
    assert schedule.time(torch.tensor([math.inf], dtype=torch.float64)) == 0
    assert schedule.time(torch.tensor([-math.inf], dtype=torch.float64)) == 1


@every_schedule
def test_signal_falls_and_noise_rises(schedule):
    assert (schedule.alpha(TIMES).diff() <= 0).all()
    assert (schedule.log_snr(TIMES).diff() < 0).all()
    assert (schedule.sigma(TIMES).diff() > 0).all()


@every_schedule
def test_log_snr_is_of_the_signal_and_the_noise(schedule):
    snr = (schedule.alpha(TIMES) / schedule.sigma(TIMES)) ** 2
    torch.testing.assert_close(schedule.log_snr(TIMES), snr.log(), rtol=1e-12, atol=1e-12)


@every_schedule
def test_time_inverts_log_snr(schedule):
    t = torch.cat([torch.logspace(-6, -2, 50, dtype=torch.float64), TIMES])
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-9)


@every_schedule
def test_derivatives_against_central_differences(schedule):
    # between a discrete schedule's steps; error of the difference: h^2 f''' / 6 + 1e-16 |f| / h, at most about 1e-6 relative here
    t = (torch.arange(40, 960, 40, dtype=torch.float64) + 0.5) / 1000
    h = 2e-5
    for f, df in [(schedule.alpha, schedule.d_alpha), (schedule.sigma, schedule.d_sigma), (schedule.log_snr, schedule.d_log_snr)]:
        torch.testing.assert_close(df(t), (f(t + h) - f(t - h)) / (2 * h), rtol=1e-5, atol=1e-7)


@every_schedule
def test_shapes_and_float32(schedule):
    t = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    for f in (schedule.alpha, schedule.sigma, schedule.log_snr, schedule.d_alpha, schedule.d_sigma):
        assert f(t).shape == t.shape
        assert f(t).dtype == torch.float32
        torch.testing.assert_close(f(t).double(), f(t.double()), rtol=2e-3, atol=1e-4)


def sde(drift, diffusion, t):
    """alpha and sigma of dx = drift(t) x dt + diffusion(t) dw, by quadrature: sigma^2 = int_0^t (alpha_t / alpha_u)^2 g(u)^2 du."""

    def log_alpha(u):
        return quad(drift, 0, u, epsabs=1e-12)[0]

    variance = quad(lambda u: math.exp(2 * (log_alpha(t) - log_alpha(u))) * diffusion(u) ** 2, 0, t, epsabs=1e-12, epsrel=1e-10)[0]
    return math.exp(log_alpha(t)), math.sqrt(variance)


def beta(t):
    return 0.1 + t * 19.9


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_song_et_al_schedules_solve_their_sdes(t):
    """2011.13456: VP dx = -beta/2 x + sqrt(beta) dw; sub-VP with sqrt(beta (1 - e^(-2 int beta))); VE with d sigma^2/dt."""

    def total(u):
        return 0.1 * u + 9.95 * u**2

    ratio = math.log(50.0 / 0.01)
    for schedule, drift, diffusion in [
        (LinearVP(), lambda u: -beta(u) / 2, lambda u: math.sqrt(beta(u))),
        (SubVP(), lambda u: -beta(u) / 2, lambda u: math.sqrt(beta(u) * -math.expm1(-2 * total(u)))),
        (VE(), lambda u: 0.0, lambda u: 0.01 * math.exp(u * ratio) * math.sqrt(2 * ratio)),
    ]:
        time = torch.tensor([t], dtype=torch.float64)
        want = torch.tensor(sde(drift, diffusion, t), dtype=torch.float64)
        torch.testing.assert_close(torch.cat([schedule.alpha(time), schedule.sigma(time)]), want, rtol=1e-8, atol=0)


def _cosine(i):
    return np.cos((i / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        (DiscreteVP(), np.linspace(1e-4, 0.02, 1000)),
        (DiscreteVP(1000, 0.00085, 0.012, 2.0), np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
        (DiscreteCosine(), np.clip(1 - _cosine(np.arange(1, 1001)) / _cosine(np.arange(1000)), 0, 0.999)),
    ],
    ids=["linear", "scaled linear", "cosine"],
)
def test_discrete_schedule_is_the_product_of_its_betas(schedule, betas):
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    np.testing.assert_allclose(schedule.alpha(t) ** 2, np.cumprod(1 - betas), rtol=1e-11)
    np.testing.assert_allclose(schedule.sigma(t) ** 2, 1 - np.cumprod(1 - betas), rtol=1e-9)


def test_zero_terminal_is_algorithm_1_of_lin_et_al():
    """2305.08891, algorithm 1, written out with NumPy; what they do to steps, ours does to all times after the first step."""
    root = np.sqrt(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
    first, last = root[0], root[-1]
    want = (root - last) * first / (first - last)
    schedule = ZeroTerminal(DiscreteVP(1000, 0.00085, 0.012, 2.0))
    np.testing.assert_allclose(schedule.alpha(torch.arange(1, 1001, dtype=torch.float64) / 1000), want, rtol=1e-10, atol=1e-14)


def test_cosine_is_nichol_and_dhariwal():
    t = TIMES.numpy()

    def f(u):
        return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

    np.testing.assert_allclose(Cosine().alpha(TIMES) ** 2, f(t) / f(0), rtol=1e-9)


def test_shifts_move_log_snr():
    plain = Cosine().log_snr(TIMES)
    torch.testing.assert_close(Cosine(shift=0.25).log_snr(TIMES), plain + 2 * math.log(0.25), rtol=1e-10, atol=1e-10)
    # SD3, eq. 23: t/(1-t) is multiplied by the shift, so log_snr falls by 2 log(shift)
    flow = RectifiedFlow().log_snr(TIMES)
    torch.testing.assert_close(RectifiedFlow(3.0).log_snr(TIMES), flow - 2 * math.log(3), rtol=1e-10, atol=1e-10)
    with pytest.raises(InputError, match="positive"):
        RectifiedFlow(0.0)

"""Single steps against closed forms, and the samplers that wrap samplers."""

import math

import pytest
import torch
from worlds import mixture, oracle

from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactFinite
from unnoise.core.predictions import Mean
from unnoise.core.processes import Gaussian, Product
from unnoise.core.random import Streams
from unnoise.core.schedules import EDM, Cosine, LinearVP, RectifiedFlow
from unnoise.samplers.ancestral import Ancestral
from unnoise.samplers.deis import DEIS
from unnoise.samplers.dpmpp import DPMpp
from unnoise.samplers.euler import Euler
from unnoise.samplers.euler_maruyama import EulerMaruyama
from unnoise.samplers.exponential import half_log_snr
from unnoise.samplers.grids import Karras, LogSNR, Uniform
from unnoise.samplers.heun import Heun
from unnoise.samplers.likelihood import Likelihood
from unnoise.samplers.loop import sample
from unnoise.samplers.predictor_corrector import PredictorCorrector
from unnoise.samplers.registry import SAMPLERS
from unnoise.samplers.renoise import renoise
from unnoise.samplers.restart import Restart
from unnoise.samplers.unipc import UniPC


def row(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), EDM(), RectifiedFlow()], ids=str)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_sde_solver_with_a_constant_prediction_draws_from_the_posterior(order, schedule):
    """With x0 known, the reverse SDE carries x_t to x_s exactly as q(x_s | x_t, x_0) does: the process's own bridge, eta = 1."""
    process, rng = Gaussian(schedule), Streams.of(1, 3).at(4)
    t, s = row(0.9, 0.5, 0.2), row(0.6, 0.45, 0.0)
    x, x0 = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    sampler = DPMpp(order=order, eta=1)
    got, _ = sampler.step(lambda x, t: Mean(x0), process, x, t, s, sampler.start(x), rng)
    zero = torch.zeros_like(x)
    fresh, _ = sampler.step(lambda x, t: Mean(zero), process, zero, t, s, sampler.start(x), rng)
    drift = process.bridge(x, x0, t, s, 1.0, rng) - process.bridge(zero, zero, t, s, 1.0, rng)
    torch.testing.assert_close(got - fresh, drift)
    scale = process.bridge(zero, zero, t, s, 1.0, rng) / rng.normal("bridge", (4,))
    torch.testing.assert_close(fresh, scale * rng.normal("sde", (4,)).double())


def test_euler_is_ddim_and_first_orders_agree():
    process, rng = Gaussian(Cosine()), Streams.of(1, 3)
    denoise = oracle(mixture(process, 2, [0.5] * 4))
    x, t, s = torch.randn(3, 2, dtype=torch.float64), row(1.0, 0.5, 0.2), row(0.6, 0.45, 0.0)
    want, _ = Ancestral(eta=0).step(denoise, process, x, t, s, None, rng)
    for sampler in (Euler(), DPMpp(order=1), DEIS(order=1), DPMpp(order=3), DEIS(order=3), UniPC(order=4)):  # no history yet
        got, _ = sampler.step(denoise, process, x, t, s, sampler.start(x), rng)
        torch.testing.assert_close(got, want, msg=str(sampler))


def test_a_step_of_heun_with_churn_is_edms_algorithm_2():
    """Karras et al. 2022 (2206.00364), line by line, in sigma = 80 t: below, at both ends of, within and above the window."""
    process, rng = Gaussian(EDM()), Streams.of(2, 6).at(3)
    tmin, tmax, gamma, s_noise = 0.5, 20.0, 0.3, 1.2
    sigma, to = row(0.4, 0.5, 5.0, 20.0, 30.0, 1.0), row(0.1, 0.3, 3.0, 10.0, 20.0, 0.0)
    x, z = torch.randn(6, 4, dtype=torch.float64), rng.normal("churn", (4,)).double()

    def denoised(x, sigma):
        return torch.tanh(x / (1 + sigma)) + sigma / 100

    want = []
    for i in range(6):
        g = gamma if tmin <= sigma[i] <= tmax else 0.0
        raised = sigma[i] * (1 + g)
        hat = x[i] + (raised**2 - sigma[i] ** 2).sqrt() * s_noise * z[i]
        d = (hat - denoised(hat, raised)) / raised
        new = hat + (to[i] - raised) * d
        if to[i] != 0:
            new = hat + (to[i] - raised) * (d + (new - denoised(new, to[i])) / to[i]) / 2
        want.append(new)
    sampler = Heun(churn=gamma, churn_min=tmin, churn_max=tmax, churn_noise=s_noise)
    got, _ = sampler.step(lambda x, t: Mean(denoised(x, 80 * t[:, None])), process, x, sigma / 80, to / 80, None, rng)
    torch.testing.assert_close(got, torch.stack(want))
    named = SAMPLERS["heun-churn"].sampler  # S_tmin, S_tmax, S_noise of the paper's table 5, ImageNet-64
    assert (named.churn_min, named.churn_max, named.churn_noise) == (0.05, 50, 1.003)
    assert named.churn > 0


def test_euler_maruyama_step_is_that_of_the_sde():
    """Written with the score, in x / alpha against V = (sigma / alpha)^2."""
    process, rng = Gaussian(LinearVP()), Streams.of(1, 2).at(1)
    model = mixture(process, 2, [0.5] * 4)
    x, t, s = torch.randn(2, 2, dtype=torch.float64), row(0.7, 0.3), row(0.6, 0.2)
    got, _ = EulerMaruyama().step(oracle(model), process, x, t, s, None, rng)
    y = x.clone().requires_grad_(True)
    (score,) = torch.autograd.grad(model.log_prob(y, t).sum(), y)
    a_t, a_s = (process.schedule.alpha(u)[:, None] for u in (t, s))
    v_t, v_s = ((process.schedule.sigma(u)[:, None] / a) ** 2 for u, a in ((t, a_t), (s, a_s)))
    want = a_s * (x / a_t + (v_t - v_s) * a_t * score + (v_t - v_s).sqrt() * rng.normal("sde", (2,)).double())
    torch.testing.assert_close(got, want)


def test_langevin_keeps_the_law_but_for_the_inflation_it_states():
    """Pure noise about one point: variance sigma^2 / (1 - snr^2) after many corrections. 30,000 normal draws: 5 standard errors."""
    process, n, snr = Gaussian(RectifiedFlow()), 30000, 0.3
    point = torch.zeros(n)
    pc = PredictorCorrector(Euler(), snr=snr, corrections=40)
    t, s = row(0.6), row(0.5)
    x, _ = pc.step(lambda x, t: Mean(point[None]), process, torch.zeros(1, n), t, s, None, Streams.of(3, 1))
    want = 0.25 / (1 - snr**2)
    assert abs(float(x.square().mean()) - want) < 5 * want * math.sqrt(2 / n)


def test_renoise_is_the_forward_transition():
    """From x_t ~ N(alpha_t x0, sigma_t^2) to x_u ~ N(alpha_u x0, sigma_u^2): mean and variance add up, for any u >= t."""
    for schedule in (LinearVP(), Cosine(), EDM(), RectifiedFlow()):
        t, u = row(0.0, 0.2, 0.5, 0.5), row(0.3, 0.9, 1.0, 0.5)
        one = torch.ones(4, 1, dtype=torch.float64)
        k = renoise(Gaussian(schedule), one, t, u, 0 * one)[:, 0]
        added = renoise(Gaussian(schedule), 0 * one, t, u, one)[:, 0]
        torch.testing.assert_close(k * schedule.alpha(t), schedule.alpha(u))
        torch.testing.assert_close((k * schedule.sigma(t)) ** 2 + added**2, schedule.sigma(u) ** 2)


WRAPPED = [
    Restart(DPMpp(order=3)),
    Restart(UniPC(order=4), repeats=1, steps=6),
    Restart(DEIS(order=3)),
    Restart(Ancestral()),
    Restart(PredictorCorrector(Heun())),
    PredictorCorrector(DPMpp(order=2), corrections=2),
    PredictorCorrector(Heun()),
    PredictorCorrector(UniPC()),
]


@pytest.mark.parametrize("sampler", WRAPPED, ids=str)
def test_around_any_sampler(sampler):
    """Lands on the point, keeps rows apart (their crossings fall at different steps), makes the calls that it says."""
    process, rng, steps = Gaussian(Cosine()), Streams.of(5, 2), 16
    times = torch.stack([Karras().times(steps, process), LogSNR().times(steps, process)], 1)
    one, two = ExactFinite(process, torch.tensor([[0.3, -0.8]])), mixture(process, 2, [0.1] * 4)
    calls = 0

    def denoise(x, t):
        nonlocal calls
        calls += 1
        return one(x, t)

    x = process.prior((2,), rng)
    landed = sample(denoise, process, x, times[:, 0], sampler, rng)
    torch.testing.assert_close(landed, torch.tensor([[0.3, -0.8]]).expand(2, 2), atol=1e-5, rtol=0)
    assert calls == sampler.calls(steps)
    both = sample(oracle(two), process, x, times, sampler, rng)
    for i in range(2):
        alone = sample(oracle(two), process, x[i : i + 1], times[:, i], sampler, rng[i : i + 1])
        torch.testing.assert_close(alone, both[i : i + 1], atol=1e-5, rtol=1e-5)


def test_karras_grid_is_edms():
    """Karras et al. 2022, eq. 5, on the schedule whose time is sigma / 80."""
    n = 18
    i = torch.arange(n, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(Karras().times(n, Gaussian(EDM())), torch.cat([sigma / 80, torch.zeros(1, dtype=torch.float64)]))


def test_log_snr_grid_is_even():
    process = Gaussian(RectifiedFlow())
    l = half_log_snr(process.schedule, LogSNR().times(20, process)[1:-1])
    torch.testing.assert_close(l.diff(), torch.full((18,), 0.5, dtype=torch.float64))


def test_refusals():
    for make, said in [
        (lambda: DPMpp(order=4), "order 4"),
        (lambda: DPMpp(eta=-1), "eta -1"),
        (lambda: UniPC(order=1), "order 1"),
        (lambda: DEIS(order=5), "order 5"),
        (lambda: Heun(churn=0.5), r"churn 0.5 must lie in \[0, sqrt\(2\) - 1\]"),
        (lambda: Restart(Euler(), low=0.4, high=0.3), "0 < low < high"),
        (lambda: PredictorCorrector(Euler(), snr=math.nan), "snr nan"),
        (lambda: Karras(sigma_min=3, sigma_max=2), "sigma_min < sigma_max"),
        (lambda: LogSNR(low=1, high=0), "low must be below high"),
        (lambda: Uniform().times(0, Gaussian(LinearVP())), "0 sampling steps: at least 1"),
        (lambda: Likelihood(steps=0), "steps 0"),
    ]:
        with pytest.raises(InputError, match=said):
            make()
    process = Gaussian(LinearVP())
    with pytest.raises(InputError, match=r"^LogSNR\(.*one noise schedule; this one is Product. Uniform works for all"):
        LogSNR().times(3, Product({"x": process}))
    with pytest.raises(InputError, match="must fall"):
        sample(lambda x, t: Mean(x), process, torch.zeros(1, 1), torch.tensor([0.5, 0.5]), Euler(), Streams.of(0, 1))

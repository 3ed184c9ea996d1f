"""Every sampler that diffusers has too, step by step beside it; and where the two differ, which of them is right."""

import inspect
import math

import pytest
import torch
from foreign_walks import ROWS, SCALED, STABLE_DIFFUSION, Case, Posterior, noises, of_class
from worlds import ode

from unnoise.checkpoints.foreign.theirs import scheduler_theirs
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.predictions import Mean
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import DiscreteVP
from unnoise.samplers.dpmpp import DPMpp
from unnoise.samplers.exponential import half_log_snr
from unnoise.samplers.lcm import LCM
from unnoise.samplers.lms import LMS
from unnoise.samplers.tcd import TCD

pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of their code
SD = STABLE_DIFFUSION
FLOW = {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}

SAME = [
    Case("DDIMScheduler", {**SD, "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}),
    Case("DDIMScheduler", {**SD, "clip_sample": False, "prediction_type": "v_prediction"}),
    Case("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False, "prediction_type": "sample"}),
    Case("DDIMScheduler", {**SD, "clip_sample": False, "prediction_type": "v_prediction", "timestep_spacing": "trailing",
                           "rescale_betas_zero_snr": True}),
    Case("DDPMScheduler", {"clip_sample": False}),
    Case("PNDMScheduler", {**SD, "skip_prk_steps": True, "steps_offset": 1}),
    Case("EulerDiscreteScheduler", {**SD, "timestep_spacing": "leading", "steps_offset": 1}),
    Case("EulerDiscreteScheduler", {**SD, "timestep_spacing": "trailing"}),
    Case("EulerDiscreteScheduler", {**SD, "timestep_spacing": "linspace"}),
    Case("EulerDiscreteScheduler", {**SD, "use_karras_sigmas": True}),
    Case("EulerDiscreteScheduler", {**SD, "use_exponential_sigmas": True}),
    Case("EulerDiscreteScheduler", {**SD, "use_beta_sigmas": True}),
    Case("EulerDiscreteScheduler", {**SD, "final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"}),
    Case("EulerAncestralDiscreteScheduler", {**SD, "timestep_spacing": "trailing"}),
    Case("HeunDiscreteScheduler", {**SD, "timestep_spacing": "trailing"}, calls=2),
    Case("LMSDiscreteScheduler", {**SD, "timestep_spacing": "trailing"}),
    Case("KDPM2DiscreteScheduler", {**SD, "timestep_spacing": "trailing"}, calls=2),
    Case("KDPM2AncestralDiscreteScheduler", {**SD, "timestep_spacing": "trailing"}, calls=2),
    Case("DPMSolverSDEScheduler", {**SD, "timestep_spacing": "trailing"}, calls=2),
    Case("DPMSolverMultistepScheduler", {**SD, "solver_order": 1}),
    Case("DPMSolverMultistepScheduler", {}),
    Case("DPMSolverMultistepScheduler", {**SD, "timestep_spacing": "leading", "steps_offset": 1, "final_sigmas_type": "sigma_min"}),
    Case("DPMSolverMultistepScheduler", {**SD, "algorithm_type": "sde-dpmsolver++", "timestep_spacing": "trailing"}),
    Case("DPMSolverMultistepScheduler", FLOW),
    Case("DPMSolverSinglestepScheduler", {**SD}),
    Case("UniPCMultistepScheduler", {**SD, "solver_order": 1}),
    Case("UniPCMultistepScheduler", {**SD, "solver_order": 2}),
    Case("UniPCMultistepScheduler", FLOW),
    Case("DEISMultistepScheduler", {**SD, "solver_order": 2}),
    Case("DEISMultistepScheduler", {**SD, "solver_order": 3}),
    Case("LCMScheduler", {}),
    Case("TCDScheduler", {}),
    Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, pipeline="StableDiffusion3Pipeline"),
    Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "stochastic_sampling": True}),
    Case("FlowMatchLCMScheduler", {"shift": 3.0}),
    Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_karras_sigmas": True}),
    Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_beta_sigmas": True}),
    Case("FlowMatchLCMScheduler", {"shift": 3.0, "use_exponential_sigmas": True}),
    Case("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, calls=2),
    Case("EDMEulerScheduler", {}),
    Case("EDMEulerScheduler", {"sigma_max": 120.0, "sigma_data": 1.0, "sigma_schedule": "exponential",
                               "prediction_type": "v_prediction"}),
    Case("EDMDPMSolverMultistepScheduler", {}),
    Case("EDMDPMSolverMultistepScheduler", {"rho": 5.0, "sigma_min": 0.02}),
    Case("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
]  # fmt: skip


@pytest.mark.parametrize("case", SAME, ids=str)
def test_step_by_step(case, monkeypatch):
    """x after every step, in their float32, of 20: from the same noise, with the same noise on the way."""
    theirs, ours, network = case.build()
    want = case.theirs(theirs, network, 20, monkeypatch)
    times, got = case.ours(ours, network, 20)
    assert len(got) == len(want) - (len(times) == 20)  # a last step of theirs may end where it begins
    torch.testing.assert_close(torch.stack(got), torch.stack(want)[: len(got)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", SAME, ids=str)
def test_written_for_diffusers_it_walks_the_same(case, monkeypatch):
    """What `scheduler_theirs` says of what was read, made by their class: every x of the walk as before, bit for bit."""
    theirs, ours, network = case.build()
    config = scheduler_theirs(ours.process, ours.preconditioner, ours.sampling, case.pipeline)
    cls = of_class(config["_class_name"])
    assert set(config) - {"_class_name"} <= set(inspect.signature(cls).parameters), "nothing that their class would pass over"
    again = cls.from_config(config)
    if not case.settings.get("stochastic_sampling"):  # which has a class of its own
        assert type(again) is type(theirs)
    want, got = (case.theirs(each, network, 6, monkeypatch) for each in (theirs, again))
    torch.testing.assert_close(torch.stack(got), torch.stack(want), rtol=0, atol=0)


@pytest.mark.parametrize("order", [2, 3])
def test_few_steps_are_lowered_by_them_alone(order, monkeypatch):
    """Below 15 steps their multistep solvers lower the order of the last two; before them all is the same."""
    for kind in ("DEISMultistepScheduler", "UniPCMultistepScheduler"):
        case = Case(kind, {**SD, "solver_order": order})
        theirs, ours, network = case.build()
        want, (_, got) = case.theirs(theirs, network, 8, monkeypatch), case.ours(ours, network, 8)
        torch.testing.assert_close(torch.stack(got)[:6], torch.stack(want)[:6], rtol=1e-4, atol=1e-4)


def errors(walks, network, times, i):
    """rms distances of the walks' x after i + 1 steps from the exact solution of the ODE."""
    exact = ode(network.mixture, noises(1)[0].double(), float(times[0]), float(times[i + 1]), 100)
    return [float((walk[i] - exact).square().mean().sqrt()) for walk in walks]


# -- where they differ, the closed form decides ----------------------------------------------------------------------------------


def test_third_order_integrates_a_parabola_exactly_and_theirs_does_not():
    """x0 = l^2 along the path (l half the log-SNR): the exact x_s has a primitive. Their D2 term has half the weight it needs."""
    theirs = of_class("DPMSolverMultistepScheduler")(**SD, solver_order=3)
    theirs.set_timesteps(20)
    theirs._step_index = 10
    ratios = theirs.sigmas.double()[8:12]
    times = SCALED.time(-2 * ratios.log())
    l = half_log_snr(SCALED, times)
    x = torch.zeros(1, 1, dtype=torch.float64)
    # d (x / sigma) / dl = e^l l^2 has the primitive e^l (l^2 - 2 l + 2)
    primitive = l.exp() * (l**2 - 2 * l + 2)
    exact = float(SCALED.sigma(times[3:]) * (primitive[3] - primitive[2]))
    past = [(u**2).reshape(1, 1) for u in l[:3]]
    off = float(theirs.multistep_dpm_solver_third_order_update(past, sample=x, noise=x))
    sampler = DPMpp(order=3)
    state = sampler.start(x)
    for i in range(3):
        end, state = sampler.step(
            lambda x, t: Mean((half_log_snr(SCALED, t) ** 2).reshape(1, 1)), Gaussian(SCALED), x, times[i : i + 1],
            times[i + 1 : i + 2], state, Streams.of(0, 1),
        )  # fmt: skip
    assert float(end) == pytest.approx(exact, rel=1e-9)
    assert abs(off - exact) > 1e-3 * abs(exact)


def test_third_order_sde_without_its_noise(monkeypatch):
    """With z = 0 the solver integrates d (x / alpha) / d log r = 2 (x / alpha - x0), r = sigma / alpha: by RK4.

    Theirs has the sign of a constant wrong in its D2 term, and is worse than their second order.
    """
    steps, off = 40, {}
    start, quiet = noises(1)[0], [torch.zeros(ROWS, 2)] * (2 * steps)
    monkeypatch.setattr("foreign_walks.noises", lambda count: [start, *quiet])
    for order in (2, 3):
        case = Case("DPMSolverMultistepScheduler", {**SD, "solver_order": order, "algorithm_type": "sde-dpmsolver++"})
        theirs, ours, network = case.build()
        want, (times, got) = case.theirs(theirs, network, steps, monkeypatch), case.ours(ours, network, steps)
        exact = without_noise(network, start.double(), times[0], times[steps - 1])
        for name, walk in (("theirs", want), ("ours", got)):
            off[name, order] = float((walk[steps - 2] - exact).square().mean().sqrt())
    assert off["ours", 2] == pytest.approx(off["theirs", 2], rel=1e-2)
    assert off["theirs", 3] > 3 * off["ours", 3]
    assert off["theirs", 3] > 5 * off["theirs", 2]


def without_noise(network, x, t, s, steps=100):
    """From t to s, by RK4."""

    def log_ratio(u):
        return float(-half_log_snr(SCALED, u))

    def slope(y, l):
        u = SCALED.time(torch.full((len(y),), -2 * l, dtype=torch.float64))
        return 2 * (y - network.mixture(y * SCALED.alpha(u)[:, None], u).x0)

    y, a = x / SCALED.alpha(t), log_ratio(t)
    h = (log_ratio(s) - a) / steps
    for l in (a + i * h for i in range(steps)):
        k1 = slope(y, l)
        k2 = slope(y + h / 2 * k1, l + h / 2)
        k3 = slope(y + h / 2 * k2, l + h / 2)
        k4 = slope(y + h * k3, l + h)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y * SCALED.alpha(s)


def test_trailing_in_61_steps():
    """Their rounding of floating-point steps makes one timestep too many, -1, for 62 of the counts up to 1000: NaN or worse.
    Ours has as many as asked for, and those of theirs before it."""
    case = Case("DDIMScheduler", {**SD, "timestep_spacing": "trailing", "clip_sample": False})
    theirs, ours, network = case.build()
    theirs.set_timesteps(61)
    assert len(theirs.timesteps) == 62
    assert int(theirs.timesteps[-1]) == -1
    times, got = case.ours(ours, network, 61)
    assert len(times) == 62
    torch.testing.assert_close(times[:-1] * 1000 - 1, theirs.timesteps[:-1].double())
    assert errors([got], network, times, 59)[0] < 0.02


@pytest.mark.parametrize(
    ("case", "steps", "factor"),
    [
        (Case("DDIMScheduler", {**SD, "timestep_spacing": "trailing", "clip_sample": False}), 150, 5),
        (Case("PNDMScheduler", {**SD, "timestep_spacing": "trailing", "skip_prk_steps": True}), 70, 50),
        (Case("DDIMScheduler", {**SD, "timestep_spacing": "linspace", "clip_sample": False}), 150, 5),
        (Case("PNDMScheduler", {**SD, "timestep_spacing": "linspace", "skip_prk_steps": True}), 50, 10),
    ],
    ids=str,
)
def test_steps_that_do_not_meet(case, steps, factor, monkeypatch):
    """Trailing, 1000 / steps no integer, and linspace: they step by floor(1000 / steps), yet call the network at other times."""
    theirs, ours, network = case.build()
    want, (times, got) = case.theirs(theirs, network, steps, monkeypatch), case.ours(ours, network, steps)
    theirs_off, ours_off = errors([want, got], network, times, steps - 1 - steps // 10)
    assert theirs_off > factor * ours_off


@pytest.mark.parametrize("steps", [20, 50])
def test_what_pndm_averages_where_v_is_predicted(steps, monkeypatch):
    """Theirs averages the answers, though v belongs to its own time; averaging the noises they mean, the error is epsilon's."""
    off = {}
    for predicts in ("epsilon", "v_prediction"):
        case = Case("PNDMScheduler", {**SD, "skip_prk_steps": True, "steps_offset": 1, "prediction_type": predicts})
        theirs, ours, network = case.build()
        want, (times, got) = case.theirs(theirs, network, steps, monkeypatch), case.ours(ours, network, steps)
        off[predicts] = errors([want, got], network, times, steps - 3)
    assert off["v_prediction"][0] > 20 * off["v_prediction"][1]
    assert off["v_prediction"][1] == pytest.approx(off["epsilon"][0], rel=1e-3)


def test_karras_timesteps_are_told_as_they_are(monkeypatch):
    """They round the timestep that the network is told: at 100 steps and more, several share one while their noise differs."""
    case = Case("DPMSolverMultistepScheduler", {**SD, "use_karras_sigmas": True})
    theirs, ours, network = case.build()
    steps = 150
    want, (times, got) = case.theirs(theirs, network, steps, monkeypatch), case.ours(ours, network, steps)
    assert len(theirs.timesteps.unique()) == steps - 10
    theirs_off, ours_off = errors([want, got], network, times, steps - 2)
    assert theirs_off > 1.5 * ours_off


@pytest.mark.parametrize(("kind", "factor"), [("DPMSolverMultistepScheduler", 2), ("UniPCMultistepScheduler", 10)])
def test_exponential_timesteps_are_told_as_they_are(kind, factor, monkeypatch):
    """They cut off the timestep that the network is told."""
    case = Case(kind, {**SD, "use_exponential_sigmas": True})
    theirs, ours, network = case.build()
    want, (times, got) = case.theirs(theirs, network, 50, monkeypatch), case.ours(ours, network, 50)
    told = times[:50] * 1000 - 1
    assert float((told - theirs.timesteps).max()) > 0.9
    assert float((told - theirs.timesteps).min()) > -0.01
    theirs_off, ours_off = errors([want, got], network, times, 48)
    assert theirs_off > factor * ours_off


def test_beta_timesteps_that_repeat_run_out_of_their_table(monkeypatch):
    """Cut off, the first two timesteps of 50 are the same, and they begin at the second: their last step is none."""
    case = Case("DPMSolverMultistepScheduler", {**SD, "use_beta_sigmas": True})
    theirs, ours, network = case.build()
    with pytest.raises(IndexError):
        case.theirs(theirs, network, 50, monkeypatch)
    assert int(theirs.timesteps[0]) == int(theirs.timesteps[1])
    times, got = case.ours(ours, network, 50)
    assert errors([got], network, times, 25)[0] < 1e-3


@pytest.mark.parametrize(("kind", "most"), [("DPMSolverMultistepScheduler", 5e-4), ("UniPCMultistepScheduler", 2e-3)])
def test_the_second_step_from_zero_snr(kind, most, monkeypatch):
    """Ours has nothing to extrapolate from a log-SNR of -infinity, theirs has their -8.3: the errors are alike."""
    settings = {**SD, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    case = Case(kind, settings)
    for steps in (7, 20):
        theirs, ours, network = case.build()
        want, (times, got) = case.theirs(theirs, network, steps, monkeypatch), case.ours(ours, network, steps)
        theirs_off, ours_off = errors([want, got], network, times, steps - 2)
        assert ours_off == pytest.approx(theirs_off, rel=0.1)
    assert 1e-4 < float((torch.stack(want) - torch.stack(got)).abs().max()) < most


@pytest.mark.parametrize("steps", [1, 4])
def test_unipc_with_b1_ends_in_nan_there_and_not_here(steps, monkeypatch):
    """B_1(h) = h is infinite in the step to sigma = 0."""
    case = Case("UniPCMultistepScheduler", {**SD, "solver_type": "bh1"})
    theirs, ours, network = case.build()
    assert bool(case.theirs(theirs, network, steps, monkeypatch)[-1].isnan().all())
    assert bool(case.ours(ours, network, steps)[1][-1].isfinite().all())


def test_data_beyond_one_are_spoilt_by_clipping(monkeypatch):
    """Codes, as this mixture, have no bound; DDIM clips where a file says nothing. Ours walks as models of codes do, unbounded."""
    case = Case("DDIMScheduler", SD)
    theirs, ours, network = case.build()
    want, (times, got) = case.theirs(theirs, network, 20, monkeypatch), case.ours(ours, network, 20)
    theirs_off, ours_off = errors([want, got], network, times, 18)
    assert theirs_off > 5 * ours_off


def test_one_step_starts_from_noise():
    """One step of their "linspace" begins at timestep 0, where there is next to no noise to remove; ours begins at the last."""
    theirs, ours, _ = Case("EulerDiscreteScheduler", {**SD, "timestep_spacing": "linspace"}).build()
    theirs.set_timesteps(1)
    assert float(theirs.timesteps[0]) == 0
    assert ours.sampling.choice().grid.times(1, ours.process).tolist() == [1, 0]


def test_zero_terminal_snr_is_zero(monkeypatch):
    """They leave alpha^2 = 2^-24 so that sigma / alpha is finite; x differs by about that alpha, 2e-4."""
    settings = {**SD, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    case = Case("EulerDiscreteScheduler", settings)
    theirs, ours, network = case.build()
    want, (times, got) = case.theirs(theirs, network, 20, monkeypatch), case.ours(ours, network, 20)
    difference = float((torch.stack(want) - torch.stack(got)).abs().max())
    assert 1e-5 < difference < 4 * 2**-12
    assert float(ours.process.schedule.alpha(times[:1])) == 0
    assert float(((1 - theirs.alphas_cumprod[-1]) / theirs.alphas_cumprod[-1]) ** 0.5) == pytest.approx(2**12, rel=1e-3)


def test_the_doubled_shift_of_a_flow():
    """Their last sigma is 1 / 1000 shifted twice, 0.0089 for a shift of 3, as in Stability's code; Flux's pipeline avoids it."""
    theirs, ours, _ = Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, pipeline="StableDiffusion3Pipeline").build()

    def shifted(u):
        return 3 * u / (1 + 2 * u)

    theirs.set_timesteps(28)
    times = ours.sampling.choice().grid.times(28, ours.process)
    assert float(times[-2]) == pytest.approx(shifted(shifted(0.001)), rel=1e-9)
    assert float(theirs.sigmas[-2]) == pytest.approx(float(times[-2]), rel=1e-5)
    flux = Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, pipeline="FluxPipeline").build()[1]
    assert float(flux.sampling.choice().grid.times(28, flux.process)[-2]) == pytest.approx(shifted(1 / 28), rel=1e-9)


# -- closed forms of their own ---------------------------------------------------------------------------------------------------


def test_lcm_starts_afresh_and_tcd_partly():
    """With x0 known, x_s has the law q(x_s | x0) for LCM; TCD with gamma 0 is DDIM. 30,000 draws, 5 standard errors."""
    process, n = Gaussian(DiscreteVP()), 30000
    x0 = torch.full((1, n), 0.5)
    x, t, s = torch.zeros(1, n), torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    got, _ = LCM().step(lambda x, t: Mean(x0), process, x, t, s, None, Streams.of(1, 1))
    alpha, sigma = float(process.schedule.alpha(s)), float(process.schedule.sigma(s))
    assert float(got.mean()) == pytest.approx(alpha / 2, abs=5 * sigma / math.sqrt(n))
    assert float(got.std()) == pytest.approx(sigma, rel=5 / math.sqrt(2 * n))
    ddim = process.bridge(x, x0, t, s, 0.0, Streams.of(1, 1))
    torch.testing.assert_close(TCD(gamma=0).step(lambda x, t: Mean(x0), process, x, t, s, None, Streams.of(1, 1))[0], ddim)
    with pytest.raises(InputError, match=r"gamma 2 must lie in \[0, 1\]"):
        TCD(gamma=2)


def test_the_network_of_the_comparison_is_the_posterior():
    """Its epsilon is -sigma times the score of the mixture, by automatic differentiation."""
    network = Posterior(SCALED)
    x = noises(1)[0].requires_grad_(True)
    level = torch.full((ROWS,), 0.5)
    (score,) = torch.autograd.grad(network.mixture.log_prob(x.double(), level.double() + 0.001).sum(), x)
    torch.testing.assert_close(network(x.detach(), level), -SCALED.sigma(level + 0.001)[:, None] * score, rtol=1e-4, atol=1e-5)


def test_lms_begins_in_the_middle_with_what_it_has():
    """Pictures that begin at the sixth of ten timesteps: theirs weighs the one slope that it has as the first of four, and goes too
    far; ours begins as Euler's does."""
    case = Case("LMSDiscreteScheduler", {**SD, "timestep_spacing": "leading", "steps_offset": 1})
    theirs, ours, network = case.build()
    times = ours.sampling.choice().grid.times(10, ours.process)[5:]
    start = network.mixture.process.schedule.sigma(times[:1]) * noises(1)[0].double()
    theirs.set_timesteps(10)
    theirs.set_begin_index(5)
    ratio = float(theirs.sigmas[5])
    x = start.float() * (ratio**2 + 1) ** 0.5
    said = network(theirs.scale_model_input(x, theirs.timesteps[5]), torch.full((ROWS,), float(theirs.timesteps[5]) / 1000))
    went = theirs.step(said, theirs.timesteps[5], x, return_dict=False)[0] / (float(theirs.sigmas[6]) ** 2 + 1) ** 0.5
    slope = (theirs.derivatives[0] * (theirs.sigmas[6] - theirs.sigmas[5])).double()
    plain = (x.double() + slope) / (float(theirs.sigmas[6]) ** 2 + 1) ** 0.5  # Euler's
    denoiser = NetworkDenoiser(network, ours.process, ours.preconditioner)
    sampler, t, s = LMS(), times[:1].expand(ROWS), times[1:2].expand(ROWS)
    began = sampler.start(start.float())
    mine, _ = sampler.step(lambda x, t: denoiser(x, t, {}), ours.process, start.float(), t, s, began, Streams.of(0, ROWS))
    torch.testing.assert_close(mine.double(), plain, rtol=1e-4, atol=1e-4)
    assert float((went - plain).norm() / (plain - start).norm()) > 0.5

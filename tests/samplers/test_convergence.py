"""Every deterministic solver converges with the order that its paper declares, on exact mixtures in 2 and 64 dimensions."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from worlds import Path, convergence, mixture, ode, oracle

from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import EDM, DiscreteVP, LinearVP, RectifiedFlow
from unnoise.samplers.ancestral import Ancestral
from unnoise.samplers.deis import DEIS
from unnoise.samplers.deis_log import LogDEIS
from unnoise.samplers.dpmpp import DPMpp
from unnoise.samplers.dpmpp_2s import DPMppPairs
from unnoise.samplers.euler import Euler
from unnoise.samplers.exponential import advance, divided_differences, half_log_snr, moments
from unnoise.samplers.heun import Heun
from unnoise.samplers.heun_flow import FlowHeun
from unnoise.samplers.lms import LMS
from unnoise.samplers.midpoint import Midpoint
from unnoise.samplers.plms import PLMS
from unnoise.samplers.unipc import UniPC

DECLARED = [
    (Ancestral(eta=0), 1),
    (Euler(), 1),
    (DPMpp(order=1), 1),
    (DEIS(order=1), 1),
    (Heun(), 2),
    (DPMpp(order=2), 2),
    (DEIS(order=2), 2),
    (UniPC(order=2), 2),  # UniP-1 and UniC-1, which raises it by one (Zhao et al. 2023, theorem 3.1)
    (DPMpp(order=3), 3),
    (DEIS(order=3), 3),
    (UniPC(order=3), 3),
    (UniPC(order=4), 4),
]
OF_OTHERS = [  # kept for the sake of open checkpoints
    (UniPC(order=3, shortcut=True), 3),
    (LogDEIS(order=2), 2),
    (LogDEIS(order=3), 3),
    (LMS(order=4), 4),
    (PLMS(), 2),  # Liu et al. 2022, property 4.2
    (DPMppPairs(), 2),
    (Midpoint(), 2),
    (FlowHeun(), 2),
]


PATHS = lru_cache(Path.of)


@pytest.mark.parametrize(("dims", "schedule"), [(2, LinearVP()), (64, RectifiedFlow())], ids=["2-D", "64-D"])
@pytest.mark.parametrize(("sampler", "order"), DECLARED, ids=str)
def test_declared_order(sampler, order, dims, schedule):
    steps = (40, 80, 160) if order < 4 else (80, 160, 320)  # the higher the order, the later it shows
    measured, errors = convergence(PATHS(dims, schedule), sampler, steps)
    assert measured == pytest.approx(order, abs=0.15), errors


@pytest.mark.parametrize(("sampler", "order"), OF_OTHERS, ids=str)
def test_declared_order_in_the_plane(sampler, order):
    measured, errors = convergence(PATHS(2, LinearVP()), sampler, (40, 80, 160))
    assert measured == pytest.approx(order, abs=0.15), errors


def test_the_reference_is_far_more_exact_than_what_it_judges():
    """RK4 with 500 steps against 1000: a thousandth of the smallest error above (about 1e-8)."""
    model = mixture(Gaussian(LinearVP()), 2, [0.6, 0.8, 0.5, 0.7])
    x = model.sample(Streams.of(1, 8)).double()
    torch.testing.assert_close(ode(model, x, 0.8, 0.3, 500), ode(model, x, 0.8, 0.3, 1000), atol=1e-11, rtol=0)


def test_heun_on_the_edm_schedule_is_edms_algorithm():
    """Written out from Karras et al. 2022, algorithm 1, with sigma itself as the time."""
    model = mixture(Gaussian(EDM(10.0)), 2, [0.6, 0.8, 0.5, 0.7])
    x = 6 * torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one = torch.ones(8, dtype=torch.float64)
    got, _ = Heun().step(oracle(model), model.process, x, 0.6 * one, 0.4 * one, None, Streams.of(0, 8))
    d = (x - model(x, 0.6 * one, {}).x0) / 6
    e = x + (4 - 6) * d
    d_e = (e - model(e, 0.4 * one, {}).x0) / 4
    torch.testing.assert_close(got, x + (4 - 6) * (d + d_e) / 2)


def test_moments_are_the_integrals_they_claim_to_be():
    """c int_0^h e^(c (tau - h)) tau^m dtau by Gauss-Legendre with 40 nodes."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))
    h = torch.tensor([1e-3, 0.1, 1.0, 5.0], dtype=torch.float64)
    tau = (nodes[:, None] + 1) / 2 * h
    for c in (1.0, 2.0):
        for m, got in enumerate(moments(h, 4, c)):
            want = (c * torch.exp(c * (tau - h)) * tau**m * weights[:, None] / 2 * h).sum(0)
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-15)


def test_divided_differences_of_a_cubic_and_without_history():
    x = torch.tensor([0.3, -0.4, 1.1, 2.0], dtype=torch.float64)
    f = 2 + 3 * x - x**2 + 5 * x**3
    got = divided_differences(list(x[:, None]), list(f[:, None]))
    torch.testing.assert_close(got[3], torch.tensor([5.0], dtype=torch.float64))
    torch.testing.assert_close(got[1], ((f[0] - f[1]) / (x[0] - x[1]))[None])
    absent = torch.tensor([-torch.inf], dtype=torch.float64)
    young = divided_differences([x[:1], x[1:2], absent, absent], [f[:1], f[1:2], f[2:3], f[3:4]])
    torch.testing.assert_close(young[1], got[1])
    assert float(young[2]) == float(young[3]) == 0


def test_advance_is_exact_for_a_prediction_quadratic_in_log_snr():
    """x0(l) = 1 + l + l^2 / 2 along the path: three nodes integrate it exactly; beside RK4 of dx/dl = b^2 x + ... in x / sigma."""
    process = Gaussian(LinearVP())
    schedule, t, s = process.schedule, torch.tensor([0.6], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    past = [t, t + 0.1, t + 0.25]
    nodes = [half_log_snr(schedule, u) for u in past]
    x = torch.tensor([[0.3]], dtype=torch.float64)
    got = advance(process, x, t, s, nodes, [(1 + l + l**2 / 2)[:, None] for l in nodes])
    # d (x / sigma) / dl = e^l x0(l); its primitive is e^l (1 + l^2 / 2), as (1 + l^2 / 2) + l = 1 + l + l^2 / 2
    a, b = nodes[0], half_log_snr(schedule, s)
    want = schedule.sigma(s) * (x[0] / schedule.sigma(t) + b.exp() * (1 + b**2 / 2) - a.exp() * (1 + a**2 / 2))
    torch.testing.assert_close(got[0], want, rtol=1e-12, atol=0)


def test_2m_agrees_with_diffusers():
    """An independent implementation, on the schedule and the times that both have: its own discrete steps."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="sample",
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    theirs.set_timesteps(10)
    model = mixture(Gaussian(DiscreteVP()), 2, [0.6, 0.8, 0.5, 0.7])
    # their step i of 0 ... 999 stands at our t = (i + 1) / 1000
    times = torch.cat([theirs.timesteps, torch.zeros(1)]).double().add(1).div(1000)
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours, state = x, DPMpp(order=2).start(x)
    for i, step in enumerate(theirs.timesteps):
        t, s = (times[j].expand(8) for j in (i, i + 1))
        x = theirs.step(model(x, t, {}).x0, step, x).prev_sample
        ours, state = DPMpp(order=2).step(oracle(model), model.process, ours, t, s, state, Streams.of(0, 8))
        if i < 9:  # their last step ends at a sigma_min of their own
            torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)

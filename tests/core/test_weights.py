"""A weight on the error of x_0 is the error of something else: computed both ways."""

import numpy as np
import pytest
import torch

from unnoise.core import weights
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import EDM as EDMPreconditioner
from unnoise.core.schedules import EDM, VE, Cosine, LinearVP, RectifiedFlow, SubVP
from unnoise.core.weights import (
    DataWeight,
    EDMWeight,
    Likelihood,
    MinSNR,
    OfSNR,
    SigmoidWeight,
    Simple,
    TruncatedSNR,
    VelocityWeight,
    VWeight,
    Weight,
)

ALL = [
    DataWeight(),
    Simple(),
    VWeight(),
    VelocityWeight(),
    EDMWeight(0.7),
    TruncatedSNR(),
    MinSNR(5.0),
    SigmoidWeight(1.0),
    Likelihood(),
]
SCHEDULES = [LinearVP(), Cosine(), VE(), EDM(), SubVP(), RectifiedFlow(2.0)]
T = torch.linspace(0.02, 0.98, 60, dtype=torch.float64)


def test_every_weight_is_in_the_suite():
    kinds = {c for c in vars(weights).values() if isinstance(c, type) and issubclass(c, Weight)} - {Weight, OfSNR}
    assert {type(w) for w in ALL} == kinds


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_weighted_data_errors_are_the_errors_of_other_targets(schedule):
    g = torch.Generator().manual_seed(0)
    x, e, guess = (torch.randn(60, dtype=torch.float64, generator=g) for _ in range(3))
    a, s = schedule.alpha(T), schedule.sigma(T)
    e_guess = (a * x + s * e - a * guess) / s
    error, noise_error = (x - guess) ** 2, (e - e_guess) ** 2
    skip, out = EDMPreconditioner(0.7).skip_out(schedule, T)
    x_t, snr = a * x + s * e, a**2 / s**2
    r = torch.hypot(a, s)  # on the circle: x_t / r
    for weight, other in [
        (Simple(), noise_error),
        (VWeight(), ((a / r * e - s / r * x) - (a / r * e_guess - s / r * guess)) ** 2),
        (VelocityWeight(), ((e - x) - (e_guess - guess)) ** 2),
        (VelocityWeight(0.3), (error / (s / (a + s)).clamp(min=0.3) ** 2)),  # JiT: divided by max(flow time, 0.3)
        (EDMWeight(0.7), ((x - skip * x_t) / out - (guess - skip * x_t) / out) ** 2),
        (MinSNR(5.0), snr.clamp(max=5) / snr * noise_error),  # Hang et al.'s own form, for noise prediction
        (TruncatedSNR(), torch.maximum(error, noise_error)),
    ]:
        torch.testing.assert_close(weight(schedule, T) * error, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("schedule", [LinearVP(), Cosine(), VE(), EDM(), RectifiedFlow(2.0)], ids=str)
def test_integrals_over_log_snr_do_not_know_the_schedule(schedule):
    """Unit Gaussian data: E |x - x0_hat|^2 = 1 / (1 + e^l). So int Likelihood dt = [log(1 + e^l)] / 2 between any two levels."""
    high, low = 6.0, -4.0
    ends = schedule.time(torch.tensor([high, low], dtype=torch.float64))
    nodes, share = np.polynomial.legendre.leggauss(400)
    t = torch.from_numpy(nodes) * (ends[1] - ends[0]) / 2 + ends.mean()
    share = torch.from_numpy(share) * (ends[1] - ends[0]) / 2
    l = schedule.log_snr(t)
    got = (share * Likelihood()(schedule, t) / (1 + l.exp())).sum()
    want = (np.log1p(np.exp(high)) - np.log1p(np.exp(low))) / 2
    assert abs(float(got) - want) < 2e-3 * want
    # with sigmoid(1 - l) in front, against the same integral on a grid of l
    grid = np.linspace(low, high, 20_001)
    f = 0.5 / (1 + np.exp(grid - 1)) * np.exp(grid) / (1 + np.exp(grid))
    got = (share * SigmoidWeight(1.0)(schedule, t) / (1 + l.exp())).sum()
    assert abs(float(got) - np.trapezoid(f, grid)) < 2e-3 * np.trapezoid(f, grid)


@pytest.mark.parametrize("weight", ALL, ids=str)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_weights_are_finite_at_the_edges(weight, schedule):
    w = weight(schedule, torch.tensor([1e-9, 1e-5, 0.5, 1 - 1e-5, 1 - 1e-9], dtype=torch.float64))
    assert w.isfinite().all()
    assert (w >= 0).all()


def test_what_cannot_be_right_is_refused():
    for make in (lambda: MinSNR(0.0), lambda: EDMWeight(float("nan")), lambda: EDMWeight(-1.0), lambda: VelocityWeight(1.0)):
        with pytest.raises(InputError):
            make()

"""Time distributions against scipy's. p-values are tested at 1e-7; there are fewer than 50."""

import numpy as np
import pytest
import torch
from scipy import stats

from unnoise.core.errors import InputError
from unnoise.core.processes import Gaussian, Masked, Product
from unnoise.core.random import Streams
from unnoise.core.schedules import EDM, VE, Cosine, LinearVP, RectifiedFlow
from unnoise.core.times import LogitNormal, LogNormalSigma, LowDiscrepancy, Mixture, UniformTimes

U = torch.linspace(0.001, 0.999, 201, dtype=torch.float64)
PROCESS = Gaussian(RectifiedFlow())


def logit_normal_cdf(t):
    return stats.norm.cdf(np.log(t / (1 - t)), loc=0.3, scale=1.2)


def test_uniform_and_logit_normal_against_their_cdfs():
    np.testing.assert_allclose(UniformTimes().ppf(U, PROCESS), U)
    np.testing.assert_allclose(logit_normal_cdf(LogitNormal(0.3, 1.2).ppf(U, PROCESS).numpy()), U, rtol=1e-9)


@pytest.mark.parametrize("schedule", [EDM(), LinearVP(), Cosine(), VE(), RectifiedFlow(2.0)], ids=str)
def test_log_normal_noise_levels_whatever_the_schedule(schedule):
    """sigma / alpha at the drawn times is EDM's ln sigma ~ N(-1.2, 1.2^2), where the schedule reaches so far."""
    t = LogNormalSigma().ppf(U, Gaussian(schedule))
    inside = (t > 1e-9) & (t < 1)
    got = (schedule.sigma(t) / schedule.alpha(t))[inside].numpy()
    np.testing.assert_allclose(got, stats.lognorm.ppf(U[inside].numpy(), s=1.2, scale=np.exp(-1.2)), rtol=1e-7)
    assert inside.double().mean() > 0.95
    assert (t[inside].diff() > 0).all()


@pytest.mark.parametrize("times", [UniformTimes(), LogitNormal(0.3, 1.2), LogNormalSigma()], ids=str)
@pytest.mark.parametrize("evenly", [False, True])
def test_draws_follow_the_distribution(times, evenly):
    process = Gaussian(EDM())
    drawn = LowDiscrepancy(times) if evenly else times
    t = drawn.draw(Streams.of(1, 4096), process)
    assert t.dtype == torch.float64
    assert (t > 0).all()
    assert (t < 1).all()
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)[1:-1]
    u = np.interp(t.numpy(), times.ppf(grid, process).numpy(), grid.numpy())  # back through the inverse's inverse
    if evenly:  # 2^12 places: one draw in each of 2^12 cells
        assert np.abs(np.sort(u) - (np.arange(4096) + 0.5) / 4096).max() < 1 / 4096 + 2e-5
    else:
        assert stats.kstest(u, "uniform").pvalue > 1e-7


@pytest.mark.parametrize("evenly", [False, True])
def test_a_mixture_draws_from_both_in_its_share(evenly):
    mixture = Mixture(LogitNormal(0.3, 1.2), UniformTimes(), share=0.25)
    t = (LowDiscrepancy(mixture) if evenly else mixture).draw(Streams.of(5, 4096), PROCESS).sort().values.numpy()
    cdf = 0.25 * t + 0.75 * logit_normal_cdf(t)
    if evenly:  # each part lies in its cells exactly, so the whole is off by a cell of each at most
        assert np.abs(cdf - (np.arange(4096) + 0.5) / 4096).max() < 2 / 4096
    else:
        assert stats.kstest(cdf, "uniform").pvalue > 1e-7


@pytest.mark.parametrize("times", [LogitNormal(), LowDiscrepancy(LogitNormal()), Mixture(LogitNormal())], ids=str)
def test_a_samples_time_is_its_own(times):
    """The same alone, and on the second of two workers, as in one batch."""
    whole = times.draw(Streams.of(3, 8, first=16), PROCESS)
    assert torch.equal(times.draw(Streams.of(3, 4, first=20), PROCESS), whole[4:])
    assert torch.equal(times.draw(Streams.of(3, 1, first=18), PROCESS), whole[2:3])
    assert not torch.equal(times.draw(Streams.of(4, 8, first=16), PROCESS), whole)


def test_extreme_settings_stay_inside():
    for times in (LogitNormal(0, 100.0), LogNormalSigma(50.0, 1.0), LogNormalSigma(-90.0, 1.0)):
        t = times.draw(Streams.of(0, 1000), PROCESS)
        assert (t > 0).all()
        assert (t < 1).all()


def test_what_cannot_be_right_is_refused():
    for make in (lambda: LogitNormal(0, 0.0), lambda: LogitNormal(float("nan")), lambda: LogNormalSigma(0, -1.0)):
        with pytest.raises(InputError, match="standard deviation"):
            make()
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="share"):
            Mixture(LogitNormal(), share=share)
    with pytest.raises(InputError, match="one noise schedule"):
        LogNormalSigma().draw(Streams.of(0, 2), Product({"a": Masked((2,))}))

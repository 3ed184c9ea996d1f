"""What every sampler promises, on every kind of schedule. A new line in the registry is tested by itself."""

import dataclasses

import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactFinite, ExactMixture
from unnoise.core.predictions import Logits
from unnoise.core.processes import Gaussian, Masked, Torus
from unnoise.core.random import Streams
from unnoise.core.schedules import EDM, VE, Cosine, DiscreteVP, LinearVP, RectifiedFlow, SubVP
from unnoise.samplers.loop import sample
from unnoise.samplers.registry import GRIDS, SAMPLERS, find_grid, find_sampler

SCHEDULES = [LinearVP(), DiscreteVP(), Cosine(), VE(), EDM(), SubVP(), RectifiedFlow(), RectifiedFlow(shift=3.0)]
EVERY_PROCESS = {"ancestral", "ddpm", "ddim", "euler-ancestral"}


def named(schedule):
    return str(schedule).replace("()", "")


def mixture(process):
    return ExactMixture(process, [0.3, 0.7], torch.tensor([[1.0, 0.5, -1.0], [-1.0, 0.0, 0.5]]), [0.05, 0.2])


class Counted:
    def __init__(self, denoiser):
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x, t):
        self.calls += 1
        assert bool(((t > 0) & (t <= 1)).all()), "a sampler has no business at t = 0"
        assert bool(torch.isfinite(x).all())
        return self.denoiser(x, t, {})


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
@pytest.mark.parametrize("name", SAMPLERS)
def test_lands_on_a_single_point_with_the_calls_it_promised(name, schedule):
    """A data set of one point: whatever the noise, the way back ends there. Every grid, one step, few and many."""
    choice, process = SAMPLERS[name], Gaussian(schedule)
    point = torch.tensor([0.7, -1.2, 0.4])
    rng = Streams.of(3, 4)
    for steps, grid in [(1, choice.grid), (9, choice.grid), (20, GRIDS["uniform"]), (40, choice.grid)]:
        denoise = Counted(ExactFinite(process, point[None]))
        times = grid.times(steps, process)
        x = sample(denoise, process, process.prior((3,), rng), times, choice.sampler, rng)
        # float32: extrapolation from four past steps magnifies rounding about thirtyfold
        torch.testing.assert_close(x, point.expand(4, 3), atol=3e-5 if name == "plms" else 1e-5, rtol=0)
        ratio = schedule.sigma(times[-2]) / schedule.alpha(times[-2])
        if name != "restart" or ratio <= choice.sampler.low:
            assert denoise.calls == choice.sampler.calls(steps)
        else:
            assert denoise.calls <= choice.sampler.calls(steps)


@pytest.mark.parametrize("schedule", [LinearVP(), VE(), RectifiedFlow()], ids=named)
@pytest.mark.parametrize("name", SAMPLERS)
def test_rows_do_not_know_each_other(name, schedule):
    """Alone, together, and at times of their own inside one batch: the same samples."""
    choice, process = SAMPLERS[name], Gaussian(schedule)
    oracle, rng, steps = mixture(process), Streams.of(5, 3), 10

    def run(times, rng):
        return sample(lambda x, t: oracle(x, t, {}), process, process.prior((3,), rng), times, choice.sampler, rng)

    one, other = choice.grid.times(steps, process), GRIDS["shifted"].times(steps, process)
    together = run(one, rng)
    torch.testing.assert_close(run(one[:, None].expand(-1, 3), rng), together, atol=1e-6, rtol=1e-6)
    mixed = run(torch.stack([one, other, one], 1), rng)
    for i, times in enumerate([one, other, one]):
        torch.testing.assert_close(run(times, rng[i : i + 1]), mixed[i : i + 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[::2], together[::2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_that_arrived_later_share_a_batch(name):
    """Rows at different steps, one of them stepping to t = 0 while the other starts from alpha = 0: as if each were alone."""
    choice, process = SAMPLERS[name], Gaussian(RectifiedFlow())
    oracle = mixture(process)
    sampler, times = choice.sampler, choice.grid.times(6, process)

    def denoise(x, t):
        return oracle(x, t, {})

    def rows(a, b):
        if a is None:
            return None
        if isinstance(a, torch.Tensor):
            return torch.cat([a, b])
        return dataclasses.replace(a, **{f.name: rows(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)})

    early, late = Streams.of(1, 2)[:1], Streams.of(1, 2)[1:]
    x, start = process.prior((3,), early), process.prior((3,), late)
    state = sampler.start(x)
    for i in range(5):
        x, state = sampler.step(denoise, process, x, times[i : i + 1], times[i + 1 : i + 2], state, early.at(i))
    both, _ = sampler.step(
        denoise,
        process,
        torch.cat([x, start]),
        torch.stack([times[5], times[0]]),
        torch.stack([times[6], times[1]]),
        rows(state, sampler.start(start)),
        Streams.of(1, 2).at([5, 0]),
    )
    last, _ = sampler.step(denoise, process, x, times[5:6], times[6:7], state, early.at(5))
    first, _ = sampler.step(denoise, process, start, times[:1], times[1:2], sampler.start(start), late.at(0))
    torch.testing.assert_close(both, torch.cat([last, first]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - EVERY_PROCESS))
def test_refuses_what_is_not_gaussian(name):
    sampler, rng = SAMPLERS[name].sampler, Streams.of(0, 2)
    for process in (Masked((3,)), Torus()):
        x = process.prior((4,), rng)
        with pytest.raises(InputError, match="Gaussian process; this one is"):
            sample(lambda x, t: Logits(torch.zeros(2, 4, 3)), process, x, torch.linspace(1, 0, 3), sampler, rng)


@pytest.mark.parametrize("name", SAMPLERS)
def test_half_precision_stays_itself(name):
    """States keep their dtype: coefficients are float64, tensors what they were."""
    process = Gaussian(Cosine())
    oracle, rng = mixture(process), Streams.of(2, 2)
    for dtype in (torch.float64, torch.bfloat16):
        x = process.prior((3,), rng).to(dtype)
        times = SAMPLERS[name].grid.times(4, process)
        assert sample(lambda x, t: oracle(x, t, {}), process, x, times, SAMPLERS[name].sampler, rng).dtype == dtype


@pytest.mark.parametrize("schedule", SCHEDULES, ids=named)
@pytest.mark.parametrize("name", GRIDS)
def test_grids_fall_strictly_from_1_to_0(name, schedule):
    for steps in (1, 2, 3, 10, 50, 250, 1000):
        times = GRIDS[name].times(steps, Gaussian(schedule))
        assert times.shape == (steps + 1,)
        assert times.dtype == torch.float64
        assert float(times[0]) == 1
        assert float(times[-1]) == 0
        assert bool((times[1:] < times[:-1]).all())


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"unknown sampler 'dpm\+\+2m'; did you mean .*'dpmpp-2m'"):
        find_sampler("dpm++2m")
    with pytest.raises(InputError, match="did you mean 'karras'"):
        find_grid("Karas")
    with pytest.raises(InputError, match="at least 1"):
        find_grid("uniform").times(0, Gaussian(LinearVP()))

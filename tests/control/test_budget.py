"""Plans against arithmetic done by hand, and against walks of real samplers under a clock that networks move."""

import pytest
import torch
from torch import Tensor

from unnoise.control.budget import LEAST, MARGIN, SAMPLER, Costs, Plan, measure, parse_seconds, plan
from unnoise.control.guidance import bind
from unnoise.control.sampling import Sampling
from unnoise.control.step_caching import CachedDenoiser, Every
from unnoise.core.denoisers import Denoiser, NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import Velocity
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow
from unnoise.networks.sd_unet import Entered, SDUNet, SDUNetConfig
from unnoise.samplers.loop import sample

PROCESS = Gaussian(RectifiedFlow())
SHAPE = (2, 4, 4)
USUAL = Sampling(30, "ddim")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(SDUNet):
    """Takes `deep` seconds for its deep part and 0.125 for the rest, on the clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__(SDUNetConfig(2, (4, 8), 1, (1, 0), 1, (1, 1), 0, 4, groups=2))
        self.clock, self.seconds = clock, seconds

    def deep(self, entered: Entered) -> Tensor:
        self.clock.now += self.seconds
        return super().deep(entered)

    def leave(self, entered: Entered, deep: Tensor) -> Tensor:
        self.clock.now += 0.125
        return super().leave(entered, deep)


def walk(plan: Plan, denoiser: NetworkDenoiser) -> Tensor:
    how, rng = plan.sampling, Streams.of(0, 1)
    chosen = how.choice()
    around: Denoiser = denoiser if how.caching is None else CachedDenoiser(denoiser, how.caching)
    x = PROCESS.prior(SHAPE, rng)
    out = sample(bind(around, {}), PROCESS, x, chosen.grid.times(how.steps, PROCESS), chosen.sampler, rng)
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize("budget", [8, 9, 11, 14, 17, 20, 25, 30, 36, 40])
def test_a_walk_keeps_to_its_budget_and_takes_what_was_foretold(budget: float) -> None:
    torch.manual_seed(0)
    clock = Clock()
    denoiser = NetworkDenoiser(Slow(clock, 0.875), PROCESS, Velocity()).eval()

    def decode(x: object) -> None:
        clock.now += 0.5

    costs = measure(denoiser, PROCESS.prior(SHAPE, Streams.of(0, 1)), {}, decode, clock)
    assert costs == Costs(1, 0.125, 0.5)
    chosen = plan(budget, USUAL, costs)
    clock.now = 0
    walk(chosen, denoiser)
    decode(None)
    assert clock.now <= budget
    assert clock.now * MARGIN == pytest.approx(chosen.seconds)
    assert chosen.whole == (chosen.sampling == USUAL) == (budget >= 30.5 * MARGIN)


def test_what_is_left_out_first() -> None:
    """30 calls of 1 s, forecasts for nothing: 30 s; 2 + 14 s at every 2nd; 2 + 9 at every 3rd; then fewer steps."""
    costs = Costs(1, 0, 0)
    every = [plan(MARGIN * s + 1e-6, USUAL, costs).sampling for s in (30, 16, 11)]
    assert every[0] == USUAL
    assert [how.caching and how.caching.when for how in every[1:]] == [Every(2, 2), Every(3, 2)]
    assert all(how.steps == 30 and how.sampler == "ddim" for how in every)
    fewer = plan(MARGIN * 10 + 1e-6, USUAL, costs).sampling
    assert (fewer.steps, fewer.sampler) == (19, SAMPLER)  # 2 + floor(17 / 2) = 10 calls
    least = plan(MARGIN * LEAST + 1e-6, USUAL, costs).sampling
    assert (least.steps, least.caching) == (LEAST, None)


def test_a_network_that_cannot_forecast_walks_fewer_steps() -> None:
    chosen = plan(MARGIN * 13 + 1e-6, USUAL, Costs(1, None, 0))
    assert (chosen.sampling.steps, chosen.sampling.caching, chosen.whole) == (13, None, False)
    assert "differ" in str(chosen)
    assert "differ" not in str(plan(100, USUAL, Costs(1, None, 0)))


def test_several_samples_and_batches() -> None:
    costs = Costs(1, None, 2)
    assert plan(MARGIN * (2 * 30 + 4 * 2) + 1e-6, USUAL, costs, samples=4, passes=2).whole
    assert plan(MARGIN * (2 * 20 + 4 * 2) + 1e-6, USUAL, costs, samples=4, passes=2).sampling.steps == 20


def test_calls_are_counted_not_steps() -> None:
    """Heun's steps take two calls but the last."""
    heun = Sampling(10, "heun")
    assert plan(MARGIN * 19 + 1e-6, heun, Costs(1, None, 0)).whole
    assert not plan(MARGIN * 19 - 1e-6, heun, Costs(1, None, 0)).whole


def test_too_little_time_is_refused_and_what_would_do_is_said() -> None:
    with pytest.raises(InputError, match=r"budget of 3 s.*takes about 6\.6 s"):
        plan(3, USUAL, Costs(1, None, 0))
    with pytest.raises(InputError, match="above 0"):
        plan(float("nan"), USUAL, Costs(1, None, 0))


def test_times_are_read() -> None:
    assert [parse_seconds(s) for s in ("10s", "10", "1.5m", "2 min")] == [10, 10, 90, 120]
    for wrong in ("", "s", "-3s", "0s", "1h", "nan"):
        with pytest.raises(InputError, match="such as 10s"):
            parse_seconds(wrong)

"""Plans against arithmetic done by hand, and against walks of real samplers under a clock that networks move."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unnoise.control.budget import MARGIN, SAMPLERS, Costs, Errors, Plan, Precision, Way, choose, measure, parse_seconds, ways
from unnoise.control.guidance import bind
from unnoise.control.sampling import Sampling
from unnoise.control.self_guidance import Internal
from unnoise.control.step_caching import CachedDenoiser, Every, StepCaching
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
USUAL = Way(Sampling(30, "ddim"))


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


def walk(how: Sampling, denoiser: NetworkDenoiser) -> None:
    rng, chosen = Streams.of(0, 1), how.choice()
    around: Denoiser = denoiser if how.caching is None else CachedDenoiser(denoiser, how.caching)
    x = PROCESS.prior(SHAPE, rng)
    sample(bind(around, {}), PROCESS, x, chosen.grid.times(how.steps, PROCESS), chosen.sampler, rng)


def test_all_ways_take_what_was_foretold() -> None:
    torch.manual_seed(0)
    clock = Clock()
    denoiser = NetworkDenoiser(Slow(clock, 0.875), PROCESS, Velocity()).eval()

    def decode(x: object) -> None:
        clock.now += 0.5

    costs = measure(denoiser, PROCESS.prior(SHAPE, Streams.of(0, 1)), {}, decode, clock)
    assert costs == Costs(1, 0.125, 0.5)
    for way in (USUAL, *ways(USUAL, True, Precision.OWN), Way(Sampling(9, "heun"))):
        clock.now = 0
        walk(way.sampling, denoiser)
        decode(None)
        assert MARGIN * clock.now == pytest.approx(costs.seconds(way)), str(way)


def test_seconds_by_hand() -> None:
    """30 calls; at every 2nd 2 + 14; Heun's steps take two calls but the last; 4 samples in 2 batches walk twice."""
    costs = Costs(1, 0.125, 2)
    second = Way(replace(USUAL.sampling, caching=StepCaching(Every(2), 1)))
    assert costs.seconds(USUAL) == pytest.approx(MARGIN * 32)
    assert costs.seconds(second) == pytest.approx(MARGIN * (16 + 14 / 8 + 2))
    assert costs.seconds(Way(Sampling(10, "heun"))) == pytest.approx(MARGIN * 21)
    assert costs.seconds(USUAL, samples=4, passes=2) == pytest.approx(MARGIN * (2 * 30 + 4 * 2))


def test_ways_leave_something_out_and_change_nothing_else() -> None:
    usual = Way(Sampling(20, "ddim", guidance=3.0, rescale=0.5, interval=(0.1, 0.9)))
    for precision in Precision:
        found = list(ways(usual, True, precision))
        assert len({repr(way) for way in found}) == len(found)
        assert all(way.precision is precision for way in found)
        assert (Way(usual.sampling, precision) in found) == (precision is not usual.precision)
        for way in found:
            how = replace(way.sampling, steps=20, sampler="ddim", caching=None)
            assert how == usual.sampling
            assert way.sampling.steps < 20 or way.sampling.caching is not None or way.precision is not usual.precision
            assert way.sampling.steps == 20 or way.sampling.sampler in SAMPLERS
    assert all(way.sampling.caching is None for way in ways(usual, False, Precision.OWN))
    inside = Way(replace(usual.sampling, inner=Internal()))
    assert all(way.sampling.caching is None for way in ways(inside, True, Precision.OWN))


# -- choosing ------------------------------------------------------------------------------------------------------------------


def planned(*told: tuple[int, float, float]) -> tuple[Plan, list[Plan], Errors, list[Way]]:
    """(steps, seconds, error) each, the usual first -> the arguments of `choose`, and what was measured."""
    plans = [Plan(Way(Sampling(steps)), seconds) for steps, seconds, _ in told]
    off = {steps: error for steps, _, error in told}
    asked: list[Way] = []

    def errors(some: Sequence[Way]) -> list[tuple[float, ...]]:
        asked.extend(some)
        return [(0.5 * off[way.sampling.steps], off[way.sampling.steps]) for way in some]

    return plans[0], plans[1:], errors, asked


FOUR = ((20, 20, 0), (15, 15, 0.01), (10, 10, 0.05), (11, 11, 0.02), (5, 5, 0.1))


@pytest.mark.parametrize(
    ("seconds", "error", "steps", "measured"),
    [
        (None, None, 20, set()),
        (20, None, 20, set()),
        (19, None, 15, {15, 10, 11, 5}),
        (12, None, 11, {10, 11, 5}),
        (10, None, 10, {10, 5}),
        (9, None, 5, {5}),
        (None, 0.0, 20, {15, 10, 11, 5}),
        (None, 0.01, 15, {15, 10, 11, 5}),
        (None, 0.03, 11, {15, 10, 11, 5}),
        (None, 0.06, 10, {15, 10, 11, 5}),
        (None, 1.0, 5, {15, 10, 11, 5}),
        (13, 0.03, 11, {10, 11, 5}),
        (100, 0.03, 11, {15, 10, 11, 5}),
    ],
)
def test_the_least_error_within_a_time_the_fastest_within_an_error(
    seconds: float | None, error: float | None, steps: int, measured: set[int]
) -> None:
    usual, others, errors, asked = planned(*FOUR)
    chosen = choose(usual, [others], errors, seconds, error)
    assert chosen.way.sampling.steps == steps
    assert chosen.error == next(e for n, _, e in FOUR if n == steps)
    assert {way.sampling.steps for way in asked} == measured, "nothing is measured that could not be chosen"


def test_what_is_slower_and_worse_is_never_chosen() -> None:
    usual, others, errors, _ = planned((20, 20, 0), (12, 12, 0.02), (11, 11, 0.02), (25, 25, 0.001))
    assert choose(usual, [others], errors, 15, None).way.sampling.steps == 11
    assert choose(usual, [others], errors, None, 0.005) == usual


def test_what_cannot_be_kept_is_refused_and_what_could_is_said() -> None:
    usual, others, errors, _ = planned(*FOUR)
    with pytest.raises(InputError, match=r"budget of 3 s: the shortest.*about 5\.0 s"):
        choose(usual, [others], errors, 3, None)
    with pytest.raises(
        InputError, match=r"12 s within an error of 0\.01: in that time 0\.02 is the least.*11 steps.*about 20\.0 s"
    ):
        choose(usual, [others], errors, 12, 0.01)
    with pytest.raises(InputError, match="above 0"):
        choose(usual, [others], errors, math.nan, None)
    with pytest.raises(InputError, match="0 or above"):
        choose(usual, [others], errors, None, math.nan)


# -- one precision after another -----------------------------------------------------------------------------------------------

HALF, EIGHT = Precision.BFLOAT16, Precision.INT8
TOLD = {  # steps, precision: seconds, error
    (20, HALF): (10, 0.01), (15, HALF): (7.5, 0.02), (10, HALF): (5, 0.04), (5, HALF): (2.5, 0.1),
    (20, EIGHT): (6, 0.03), (15, EIGHT): (4.5, 0.035), (10, EIGHT): (3, 0.05), (5, EIGHT): (1.5, 0.11),
}  # fmt: skip


class Told:
    """Plans in bfloat16, then in int8, of 20 steps usually; and who asked what."""

    def __init__(self, usual: Plan, told: dict[tuple[int, Precision], tuple[float, float]]) -> None:
        self.usual, self.told = usual, told
        self.asked = dict[Precision, list[int]]()
        self.rounds = list[Precision]()

    def others(self) -> Iterator[list[Plan]]:
        for precision in (HALF, EIGHT):
            self.rounds.append(precision)
            yield [Plan(Way(Sampling(n), p), s) for (n, p), (s, _) in self.told.items() if p is precision]

    def errors(self, some: Sequence[Way]) -> list[tuple[float, ...]]:
        for way in some:
            self.asked.setdefault(way.precision, []).append(way.sampling.steps)
        return [(self.told[way.sampling.steps, way.precision][1],) for way in some]

    def choose(self, seconds: float | None, error: float | None) -> tuple[int, Precision]:
        way = choose(self.usual, self.others(), self.errors, seconds, error).way
        return way.sampling.steps, way.precision

    def exhaustive(self, seconds: float | None, error: float | None) -> tuple[int, Precision] | None:
        """Everything measured, and what is best of it; None where nothing is right."""
        all_of_it = [((20, Precision.OWN), self.usual.seconds, 0.0), *((k, *v) for k, v in self.told.items())]
        right = [row for row in all_of_it if row[1] <= (seconds or math.inf) and row[2] <= (math.inf if error is None else error)]
        return min(right, key=lambda row: row[2] if error is None else row[1], default=(None,))[0]


@pytest.mark.parametrize(
    ("seconds", "error", "chosen", "half", "eight"),
    [
        (12, None, (20, HALF), [20, 15, 10, 5], None),  # all of it fits in bfloat16: int8 is not even opened
        (9, None, (15, HALF), [15, 10, 5], [20]),  # 20 steps fit in int8 alone
        (6, None, (20, EIGHT), [10, 5], [20, 15]),
        (4.6, None, (15, EIGHT), [5], [15, 10]),
        (2, None, (5, EIGHT), None, [5]),
        (None, 0.005, (20, Precision.OWN), [20, 15, 10, 5], None),  # int8 is off by no less than bfloat16, which is by more
        (None, 0.01, (20, HALF), [20, 15, 10, 5], [20]),
        (None, 0.03, (20, EIGHT), [20, 15, 10, 5], [20, 15]),
        (None, 0.04, (15, EIGHT), [20, 15, 10, 5], [15, 10]),
        (None, 0.05, (10, EIGHT), [20, 15, 10, 5], [15, 10]),
        (6, 0.03, (20, EIGHT), [10, 5], [20, 15]),
        (6, 0.04, (15, EIGHT), [10, 5], [15, 10]),
    ],
)
def test_int8_is_measured_where_it_may_win(
    seconds: float | None, error: float | None, chosen: tuple[int, Precision], half: list[int] | None, eight: list[int] | None
) -> None:
    """By hand."""
    told = Told(Plan(Way(Sampling(20)), 20), TOLD)
    assert told.choose(seconds, error) == told.exhaustive(seconds, error) == chosen
    assert told.asked == {p: some for p, some in ((HALF, half), (EIGHT, eight)) if some is not None}
    assert told.rounds == ([HALF] if eight is None else [HALF, EIGHT])


def test_nothing_is_lost_by_what_is_not_measured() -> None:
    """Beside everything measured, in 2000 drawn cases in which int8 is off by more than the same walk in bfloat16."""
    rng, measured, right = random.Random(0), 0, 0
    for _ in range(2000):
        speeds = {HALF: rng.uniform(0.2, 1.2), EIGHT: rng.uniform(0.1, 1)}
        steps = {n: rng.uniform(0, 0.2) for n in (15, 12, 10, 8, 6)} | {20: 0.0}
        half = {n: off + rng.expovariate(50) for n, off in steps.items()}
        eight = {n: off + rng.expovariate(50) for n, off in half.items()}
        told = {(n, p): (n * s, off[n]) for (p, s), off in zip(speeds.items(), (half, eight)) for n in steps}
        case = Told(Plan(Way(Sampling(20)), 20), told)
        seconds, error = rng.choice(
            [(rng.uniform(1, 20), None), (None, rng.uniform(0, 0.3)), (rng.uniform(1, 20), rng.uniform(0, 0.3))]
        )
        expected = case.exhaustive(seconds, error)
        if expected is None:
            with pytest.raises(InputError, match="a budget of"):
                case.choose(seconds, error)
        else:
            assert case.choose(seconds, error) == expected
            right += 1
        measured += len(case.asked.get(EIGHT, []))
    assert right > 1500
    assert measured < 0.5 * 2000 * len(steps)


def test_precisions_are_said() -> None:
    assert str(Way(Sampling(15, "unipc"), EIGHT)) == "15 steps of unipc, in int8"
    assert str(Way(Sampling(15, "unipc"), HALF)) == "15 steps of unipc, in bfloat16"
    assert str(Way(Sampling(15, "unipc"))) == "15 steps of unipc"


# ------------------------------------------------------------------------------------------------------------------------------


def test_what_is_said_of_the_error_holds_for_new_pictures() -> None:
    """Gaussian data drawn by two linear walks: the error of a picture of 3 numbers is |a - b| times a chi. Among 40,000 times of 4
    measured and 1 new one, the new one stays within for 4 of 5: a share outside 0.8 +- 0.01 (5 sigma) comes once in a million."""
    z = torch.randn(40_000, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    off = (0.3 * z).square().mean(-1).sqrt()
    plans = [Plan(USUAL, 1, tuple(some)) for some in off[:, :4].tolist()]
    within = sum(new <= plan.error for plan, new in zip(plans, off[:, 4].tolist()))
    assert within / len(plans) == pytest.approx(4 / 5, abs=0.01)
    assert "in 4 of 5 pictures" in str(plans[0])


def test_times_are_read() -> None:
    assert [parse_seconds(s) for s in ("10s", "10", "1.5m", "2 min")] == [10, 10, 90, 120]
    for wrong in ("", "s", "-3s", "0s", "1h", "nan"):
        with pytest.raises(InputError, match="such as 10s"):
            parse_seconds(wrong)

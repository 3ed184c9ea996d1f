"""A walk that fits into a given time: steps, sampler and step caching chosen from what a network call was measured to cost.

    seconds = passes (c calls_run + f calls_forecast) + d samples,   calls_run = first + floor((calls - first) / n)

for a call c, a forecast one f (`step_caching`) and a decoded sample d. What is left out of the usual walk, as much as is needed:

    1. nothing                                                          the picture is that of the usual walk
    2. deep features at every 2nd, then every 3rd call                  the same walk, with an error of the network's words
    3. fewer steps, by DPM-Solver++(2M), from `FEW` on; at every 2nd    another walk to nearly the same picture (2211.01095)
       call while they are at least `SMOOTH`, where a forecast is fair
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch

from unnoise.control.sampling import Sampling
from unnoise.control.step_caching import CachedDenoiser, Every, StepCaching
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.state import Cond, State, batch_size, leaf
from unnoise.networks.splitting import Splitting

FEW, SMOOTH, LEAST = 24, 14, 6
"""Steps: to begin with where the usual ones do not fit; from which forecasts are made; below which no picture is right."""
SAMPLER = "dpmpp-2m"
MARGIN = 1.1
"""Times vary, and what lies between calls takes some, too."""


@dataclass(frozen=True)
class Costs:
    """Seconds: of a call of the network for a whole batch, of a forecast one (None: the network cannot), of decoding a sample."""

    call: float
    forecast: float | None
    decode: float

    def __post_init__(self) -> None:
        if not (self.call > 0 and self.decode >= 0 and (self.forecast is None or self.forecast >= 0)):
            raise InputError(f"{self}: a call takes time, and nothing takes less than none")


@dataclass(frozen=True)
class Plan:
    """How to sample, the seconds it is expected to take, and whether the picture is that of the usual walk."""

    sampling: Sampling
    seconds: float
    whole: bool

    def __str__(self) -> str:
        how = self.sampling
        said = f"{how.steps} steps of {how.named()['sampler'] or type(how.sampler).__name__}"
        if how.caching is not None and isinstance(how.caching.when, Every):
            said += f", deep features at every {how.caching.when.n}. call"
        differs = (
            "nothing left out" if self.whole else "the picture will differ from that of the usual walk, by how much is not known"
        )
        return f"{said}; about {self.seconds:.1f} s; {differs}"


def plan(seconds: float, usual: Sampling, costs: Costs, samples: int = 1, passes: int = 1) -> Plan:
    """The first of the walks above that fits. passes: batches, one after another, that the samples are made in.

    Raises InputError where none fits, and says how long the shortest takes.
    """
    if not seconds > 0:
        raise InputError(f"a budget of {seconds} s: it is above 0")
    least = float("inf")
    for sampling in _walks(usual, costs.forecast is not None):
        needed = MARGIN * (passes * _walk_seconds(sampling, costs) + costs.decode * samples)
        if needed <= seconds:
            return Plan(sampling, needed, sampling == usual)
        least = min(least, needed)
    raise InputError(f"a budget of {seconds:g} s: the shortest walk that makes a picture takes about {least:.1f} s here")


def _walks(usual: Sampling, forecasts: bool) -> Iterator[Sampling]:
    yield usual
    if forecasts and usual.caching is None and usual.inner is None and usual.steps >= SMOOTH:
        yield from (replace(usual, caching=_every(n)) for n in (2, 3))
    for steps in range(min(usual.steps - 1, FEW), LEAST - 1, -1):
        smooth = forecasts and usual.inner is None and steps >= SMOOTH
        yield replace(usual, steps=steps, sampler=SAMPLER, caching=_every(2) if smooth else None)


def _every(n: int) -> StepCaching:
    return StepCaching(Every(n, first=2), order=1)


def _walk_seconds(how: Sampling, costs: Costs) -> float:
    calls = how.choice().sampler.calls(how.steps)
    if how.caching is None or not isinstance(how.caching.when, Every) or costs.forecast is None:
        return calls * costs.call
    every = how.caching.when
    first = min(every.first, calls)
    run = first + (calls - first) // every.n
    return run * costs.call + (calls - run) * costs.forecast


@torch.no_grad()
def measure(
    denoiser: NetworkDenoiser,
    x: State,
    cond: Cond,
    decode: Callable[[State], object],
    clock: Callable[[], float] = time.perf_counter,
) -> Costs:
    """Costs of a batch x at noise, told cond; decode: of one sample. Each is called once before it is timed, but `decode`."""
    low, high = (torch.full((batch_size(x),), t, dtype=torch.float64, device=leaf(x).device) for t in (0.5, 0.9))
    forecast = None
    if isinstance(denoiser.network, Splitting):
        cached = CachedDenoiser(denoiser, StepCaching(Every(10**6)))
        cached(x, high, cond)
        forecast = _seconds(lambda: cached(x, low, cond), x, clock)
    else:
        denoiser(x, high, cond)
    return Costs(_seconds(lambda: denoiser(x, low, cond), x, clock), forecast, _seconds(lambda: decode(x), x, clock))


def _seconds(work: Callable[[], object], x: State, clock: Callable[[], float]) -> float:
    device = leaf(x).device
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - began


def faster_in_bfloat16(device: torch.device | str = "cpu", side: int = 1024) -> bool:
    """Whether matrix products are, by a third at least: the best of three each, in turn. float16 is no choice: it overflows, and
    is slower than float32 on processors."""
    took: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    factors = {dtype: torch.ones(side, side, dtype=dtype, device=device) for dtype in took}
    for _ in range(4):
        for dtype, a in factors.items():
            took[dtype].append(_seconds(partial(torch.mm, a, a), a, time.perf_counter))
    single, half = (min(times[1:]) for times in took.values())
    return half < 0.75 * single


def parse_seconds(said: str) -> float:
    """ "10s", "1.5m", "10" -> seconds. InputError for what is no time."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min)?", said.strip())
    if not found or float(found[1]) == 0:
        raise InputError(f"budget {said!r}: seconds or minutes are meant, such as 10s or 1.5m")
    return float(found[1]) * (60 if found[2] in ("m", "min") else 1)

"""How to draw within a time, within an error, or both: chosen among ways to walk whose error was measured on the model itself.

    seconds = passes (c calls_run + f calls_forecast) + d samples,   calls_run = m + 1 + floor((calls - m - 1) / n)

for a call c, a forecast one f of order m (`step_caching`) and a decoded sample d, in the precision of the way.

    error = max_{i <= m} e_i,   e_i = sqrt(mean((way(z_i) - usual(z_i))^2)),   P(e_{m+1} > error) <= 1 / (m + 1)

over m samples z_i (a prompt and its noise), their pictures in 0 ... 1, drawn the way and as usual. The largest of m + 1 errors is
equally likely to be that of any sample, however errors are distributed: a sample like those that were measured stays within the
error of a way with probability m / (m + 1) (split conformal prediction: Papadopoulos et al. 2002; Angelopoulos & Bates 2021,
2107.07511). It holds for one way; of several whose errors are close, the chosen one is a little worse than it looks.

    within a time            the way of the least error, of those that take no longer
    within an error          the fastest way, of those that are off by no more
    within both              as within the error, refused where that takes longer

Ways are tried one precision after another, the more exact first. What rounds more is taken to be off by no less than the same walk
was before, and is measured only where it would be chosen if it were off by just that: a branch and bound (Land & Doig 1960).
"""

import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

import torch

from unnoise.control.sampling import Sampling
from unnoise.control.step_caching import CachedDenoiser, Every, StepCaching
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.state import Cond, State, batch_size, leaf
from unnoise.networks.splitting import Splitting

SAMPLERS = ("dpmpp-2m", "dpmpp-3m", "unipc")
"""Of fewer steps than usual; which of them is off by the least depends on the model. Features are forecast for the first."""
STEPS = (30, 20, 15, 10, 8, 6)
MARGIN = 1.1
"""Times vary, and what lies between calls takes some, too."""


class Precision(Enum):
    """What a network computes in: as the model was loaded, or less exactly. In int8 it does what is left in bfloat16."""

    OWN = "own"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


@dataclass(frozen=True)
class Way:
    """One way to draw."""

    sampling: Sampling
    precision: Precision = Precision.OWN

    @property
    def bf16(self) -> bool:
        """Whether the network runs in bfloat16 where it would not by itself, be it between layers in int8."""
        return self.precision is not Precision.OWN

    def __str__(self) -> str:
        how = self.sampling
        said = f"{how.steps} steps of {how.named()['sampler'] or type(how.sampler).__name__}"
        if how.caching is not None and isinstance(how.caching.when, Every):
            said += f", deep features at every {how.caching.when.n}. call{', followed' if how.caching.order else ''}"
        return said if self.precision is Precision.OWN else f"{said}, in {self.precision.value}"


def ways(usual: Way, forecasts: bool, precision: Precision) -> Iterator[Way]:
    """All ways in a precision but the usual one. forecasts: whether the network can."""
    how = usual.sampling
    if precision is not usual.precision:
        yield Way(how, precision)
    forecasts = forecasts and how.inner is None and how.caching is None
    if forecasts:
        yield from (Way(replace(how, caching=_every(n, order)), precision) for n, order in ((2, 0), (2, 1), (3, 1)))
    for steps in (n for n in STEPS if n < how.steps):
        for sampler in SAMPLERS:
            fewer = replace(how, steps=steps, sampler=sampler, caching=None)
            yield Way(fewer, precision)
            if forecasts and sampler == SAMPLERS[0]:
                yield Way(replace(fewer, caching=_every(2, 1)), precision)


def _every(n: int, order: int) -> StepCaching:
    return StepCaching(Every(n), order)


@dataclass(frozen=True)
class Costs:
    """Seconds: of a call of the network for a whole batch, of a forecast one (None: the network cannot), of decoding a sample."""

    call: float
    forecast: float | None
    decode: float

    def __post_init__(self) -> None:
        if not (self.call > 0 and self.decode >= 0 and (self.forecast is None or self.forecast >= 0)):
            raise InputError(f"{self}: a call takes time, and nothing takes less than none")

    def seconds(self, way: Way, samples: int = 1, passes: int = 1) -> float:
        """passes: batches, one after another, that the samples are made in."""
        return MARGIN * (passes * self._walk(way.sampling) + self.decode * samples)

    def _walk(self, how: Sampling) -> float:
        calls = how.choice().sampler.calls(how.steps)
        if how.caching is None or not isinstance(how.caching.when, Every) or self.forecast is None:
            return calls * self.call
        every = how.caching.when
        first = min(how.caching.order + 1, calls)
        run = first + (calls - first) // every.n
        return run * self.call + (calls - run) * self.forecast


@dataclass(frozen=True)
class Plan:
    """A way to draw, the seconds that it is expected to take, and what its pictures were off by: one error a measured sample, none
    for the usual way."""

    way: Way
    seconds: float
    errors: tuple[float, ...] = ()

    @property
    def error(self) -> float:
        """As defined above: 0 for the usual way."""
        return max(self.errors, default=0.0)

    def __str__(self) -> str:
        m = len(self.errors)
        off = f"off by at most {self.error:.2g} of 1 (root mean square) in {m} of {m + 1} pictures, as measured on {m}"
        return f"{self.way}; about {_short(self.seconds)} s; {off if m else 'nothing left out'}"


Errors = Callable[[Sequence[Way]], Sequence[tuple[float, ...]]]
"""Measures what each of some ways is off by."""


def choose(usual: Plan, others: Iterable[Sequence[Plan]], errors: Errors, seconds: float | None, error: float | None) -> Plan:
    """The plan within a time in seconds, an error, or both; the usual one within neither.

    others: not measured yet, those of one precision after another, the more exact first; the next are asked for where one of them
    may be chosen. Only what may be is measured: within the time, and better than the best so far if it is off by no more than the
    same walk was before. Raises InputError where nothing is within the time, or both, and says what would be.
    """
    if seconds is not None and not seconds > 0:
        raise InputError(f"a budget of {seconds:g} s: it is above 0")
    if error is not None and not error >= 0:
        raise InputError(f"an error of {error:g}: it is 0 or above; pictures lie in 0 ... 1, and 0.01 is hardly seen")
    limit = float("inf") if seconds is None else seconds
    if error is None and usual.seconds <= limit:
        return usual
    known, tried = [usual] if usual.seconds <= limit else [], [usual]

    def hopeful(plan: Plan) -> bool:
        """Whether it would be the best if it were off by no more than the same walk was before; by nothing, if that is unknown."""
        off = next((before.errors for before in reversed(known) if before.way.sampling == plan.way.sampling), ())
        return all(_rank(replace(plan, errors=off), error) < _rank(before, error) for before in known)

    for some in others:
        worth = [plan for plan in some if plan.seconds <= limit and hopeful(plan)]
        known += [replace(plan, errors=off) for plan, off in zip(worth, errors([plan.way for plan in worth]), strict=True)]
        tried += some
        if not any(hopeful(replace(plan, seconds=0)) for plan in tried):  # however fast it may be in what comes next
            break
    if not known:
        least = min(plan.seconds for plan in tried)
        raise InputError(f"a budget of {limit:g} s: the shortest walk that makes a picture takes about {_short(least)} s here")
    best = min(known, key=lambda plan: (_rank(plan, error), plan.seconds, plan.error))
    if error is not None and best.error > error:
        raise InputError(
            f"a budget of {limit:g} s within an error of {error:g}: in that time {best.error:.2g} is the least here "
            f"({best.way}); nothing left out takes about {_short(usual.seconds)} s"
        )
    return best


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2g}"


def _rank(plan: Plan, error: float | None) -> tuple[int, float]:
    """Lower is better: the seconds of what is within an error, and behind these the errors of all else."""
    return (0, plan.seconds) if error is not None and plan.error <= error else (1, plan.error)


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
    """The middle of three times, of which one may be of a processor that was busy; of fewer, where they take half a second."""
    device, took = leaf(x).device, list[float]()
    while len(took) < 3 and sum(took) < 0.5:
        _settled(device)  # what was asked of a GPU before is no part of this
        began = clock()
        work()
        _settled(device)
        took.append(clock() - began)
    return statistics.median(took)


def _settled(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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

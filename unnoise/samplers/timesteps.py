"""The time grids of open checkpoints: exactly the timesteps that the networks were trained at, in the spacings they shipped with.

A discrete schedule of T steps calls its times 0 ... T - 1: timestep k stands at our t = (k + 1) / T. Spacings of n of them, named
after Lin et al. 2023 (2305.08891, table 2):
    leading    0, r, 2 r, ..., r = floor(T / n), all moved up by `offset`: none starts at the last timestep
    trailing   T - 1 downwards in steps of T / n, rounded
    linspace   0 ... T - 1 evenly
Solvers that were made to end at timestep 0, DPM-Solver and its kin, space n + 1 of them and leave out the least (`spare` = 1).
`end` says where the walk ends: 0 for the data, 1 for timestep 0, that is t = 1 / T, where a little noise is left.
A flow's time is its sigma; its grids are shifted. Grids here may start below t = 1 and end above 0.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.state import Shape
from unnoise.samplers.grids import Grid, Walk
from unnoise.samplers.renoise import noise_ratio, time_of_ratio


def _at(timesteps: Tensor, end: int, trained: int) -> Tensor:
    """Falling timesteps -> times, and the end; the last timestep is itself the end if it stands there."""
    times = (timesteps + 1) / trained
    last = times.new_full((1,), end / trained)
    return torch.cat([times, last[times[-1:] > last]]).clamp(max=1)


class Timesteps(Grid, ABC):
    """trained: how many there are. end: see above."""

    end: int
    trained: int

    def walked(self, walk: Walk) -> Grid:
        end = self.end if walk.ends is None else walk.ends
        return Distilled(end=end, trained=self.trained) if walk.student else self.ending(end, walk.spare)

    def respaced(self, walk: Walk) -> Grid:
        end = self.end if walk.ends is None else walk.ends
        return KarrasBetween(Linspace(0, True, end, self.trained) if walk.spare else self.walked(walk))

    @abstractmethod
    def ending(self, end: int, spare: int) -> Grid:
        """The same spacing, with another end and so many timesteps left out."""


@dataclass(frozen=True)
class Leading(Timesteps):
    offset: int = 0
    spare: int = 0
    end: int = 0
    trained: int = 1000

    def ending(self, end: int, spare: int) -> Grid:
        return replace(self, end=end, spare=spare)

    def spread(self, steps: int, process: Process) -> Tensor:
        gap = self.trained // (steps + self.spare)
        k = torch.arange(steps - 1 + self.spare, self.spare - 1, -1, dtype=torch.float64)
        return _at(k * gap + self.offset, self.end, self.trained)


@dataclass(frozen=True)
class Trailing(Timesteps):
    end: int = 0
    trained: int = 1000

    def ending(self, end: int, spare: int) -> Grid:
        return replace(self, end=end)

    def spread(self, steps: int, process: Process) -> Tensor:
        k = torch.arange(steps, dtype=torch.float64)
        return _at((self.trained - k * self.trained / steps).round() - 1, self.end, self.trained)


@dataclass(frozen=True)
class Linspace(Timesteps):
    """whole: rounded to timesteps that exist; else the times between them count too."""

    spare: int = 0
    whole: bool = True
    end: int = 0
    trained: int = 1000

    def ending(self, end: int, spare: int) -> Grid:
        return replace(self, end=end, spare=spare)

    def spread(self, steps: int, process: Process) -> Tensor:
        k = torch.linspace(self.trained - 1, 0, steps + self.spare, dtype=torch.float64)[:steps]
        return _at(k.round() if self.whole else k, self.end, self.trained)


@dataclass(frozen=True)
class Distilled(Grid):
    """Every so many of the evenly spaced timesteps that a consistency student saw: Luo et al. 2023 (2310.04378), section 4.3.

    It saw T / taught (k + 1) - 1 for k = 0 ... taught - 1. Of these, falling, the floor(i taught / steps)-th.
    """

    taught: int = 50
    end: int = 0
    trained: int = 1000

    def spread(self, steps: int, process: Process) -> Tensor:
        if steps > self.taught:
            raise InputError(f"{steps} sampling steps: students are distilled for {self.taught} timesteps: say fewer --steps")
        i = (torch.arange(steps, dtype=torch.float64) * self.taught / steps).floor()
        return _at((self.taught - i) * (self.trained // self.taught) - 1, self.end, self.trained)


@dataclass(frozen=True)
class Between(Grid, ABC):
    """From the first to the last but one time of another grid, spaced anew in sigma / alpha; it ends where the other does."""

    ends: Grid

    def walked(self, walk: Walk) -> Grid:
        """Those that spare a timestep respace all of them."""
        if walk.student or not isinstance(self.ends, Timesteps):
            return self.ends.walked(walk)
        end = self.ends.end if walk.ends is None else walk.ends
        return replace(self, ends=Linspace(0, True, end, self.ends.trained) if walk.spare else self.ends.walked(walk))

    def respaced(self, walk: Walk) -> Grid | None:
        return self.ends.respaced(walk)

    @abstractmethod
    def ratios(self, high: float, low: float, steps: int) -> Tensor:
        """(steps,) falling from high to low."""

    def spread(self, steps: int, process: Process) -> Tensor:
        schedule = gaussian(process, type(self).__name__).schedule
        ends = self.ends.spread(steps, process)
        walked, rest = ends[:steps], ends[steps:]  # no rest where the last time walked is the end
        high, low = noise_ratio(schedule, walked[:1]), noise_ratio(schedule, walked[-1:])
        if not bool(high.isfinite()):
            raise InputError(f"{type(self).__name__} spaces sigma / alpha, which is infinite where nothing is left of the signal")
        inner = time_of_ratio(schedule, self.ratios(float(high), float(low), steps))[1:-1]
        return torch.cat([walked[:1], inner, walked[1:][-1:], rest])


@dataclass(frozen=True)
class KarrasBetween(Between):
    """Equal steps in ratio^(1 / rho): Karras et al. 2022 (2206.00364), eq. 5."""

    ends: Grid = Linspace()
    rho: float = 7.0

    def ratios(self, high: float, low: float, steps: int) -> Tensor:
        return torch.linspace(high ** (1 / self.rho), low ** (1 / self.rho), steps, dtype=torch.float64) ** self.rho


@dataclass(frozen=True)
class ExponentialBetween(Between):
    """Equal steps in log ratio."""

    ends: Grid = Linspace()

    def ratios(self, high: float, low: float, steps: int) -> Tensor:
        return torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64).exp()


@dataclass(frozen=True)
class BetaBetween(Between):
    """Quantiles of a Beta(a, a) law stretched over [low, high]: Lee et al. 2024 (2407.12173), for ratios. Needs scipy."""

    ends: Grid = Linspace()
    a: float = 0.6

    def ratios(self, high: float, low: float, steps: int) -> Tensor:
        try:
            from scipy.special import betaincinv
        except ImportError as e:
            raise InputError('the beta time grid needs scipy: pip install "unnoise[transport]"') from e
        levels = torch.linspace(1, 0, steps, dtype=torch.float64).numpy()
        return low + (high - low) * torch.from_numpy(betaincinv(self.a, self.a, levels))


@dataclass(frozen=True)
class FlowSteps(Grid):
    """A flow's times: u evenly from `first` to `last`, shifted to t = shift u / (1 + (shift - 1) u), then 0.

    spare = 1 spaces one more u and leaves out the last.
    """

    shift: float = 1.0
    first: float = 1.0
    last: float = 0.0
    spare: int = 1

    def respaced(self, walk: Walk) -> Grid:
        return FlowBetween(KarrasBetween(self))

    def spread(self, steps: int, process: Process) -> Tensor:
        u = torch.linspace(self.first, self.last, steps + self.spare, dtype=torch.float64)[:steps]
        return torch.cat([self.shift * u / (1 + (self.shift - 1) * u), u.new_zeros(1)])


@dataclass(frozen=True)
class Angles(Grid):
    """A flow's times by angle, t = sin a / (sin a + cos a), a evenly from pi / 2 to 0; of two steps the second starts at `middle`.

    The rectified flow's (1 - t) x0 + t z and TrigFlow's cos(a) x0 + sin(a) z are the same up to a factor there: Chen et al. 2025
    (Sana-Sprint, 2503.09641), section 3.1; sCM: Lu and Song 2024 (2410.11081).
    """

    middle: float = 1.3

    def spread(self, steps: int, process: Process) -> Tensor:
        a = torch.linspace(math.pi / 2, 0, steps + 1, dtype=torch.float64)
        if steps == 2:
            a[1] = self.middle
        t = a.sin() / (a.sin() + a.cos())
        t[0] = 1  # to which rounding need not come
        return t


@dataclass(frozen=True)
class FlowBetween(Grid):
    """A curve drawn in a flow's times themselves, in place of ratios, between the same ends: see `Between`."""

    curve: Between

    def of(self, shape: Shape) -> Grid:
        return replace(self, curve=replace(self.curve, ends=self.curve.ends.of(shape)))

    def spread(self, steps: int, process: Process) -> Tensor:
        ends = self.curve.ends.spread(steps, process)
        walked, rest = ends[:steps], ends[steps:]
        inner = self.curve.ratios(float(walked[0]), float(walked[-1]), steps)[1:-1]
        return torch.cat([walked[:1], inner, walked[1:][-1:], rest])


@dataclass(frozen=True)
class ByTokens(Grid):
    """A flow's times shifted by e^mu, with mu linear in the number of the network's tokens: the larger, the more noise it takes.

    mu runs from `least` at `fewest` tokens to `most` at `many` and on beyond them. A token is `patch` x `patch` of the state.
    Stable Diffusion 3 (2403.03206, section 5.3.2) states the idea, FLUX the line. Asks `of` for the states' shape first.
    """

    steps: FlowSteps = FlowSteps()
    least: float = 0.5
    most: float = 1.15
    fewest: int = 256
    many: int = 4096
    patch: int = 2

    def respaced(self, walk: Walk) -> Grid:
        return FlowBetween(KarrasBetween(self))

    def of(self, shape: Shape) -> Grid:
        if not isinstance(shape, tuple) or len(shape) != 3:
            raise InputError(f"a grid by tokens needs states (channels, height, width), not {shape}")
        tokens = (shape[1] // self.patch) * (shape[2] // self.patch)
        mu = self.least + (tokens - self.fewest) * (self.most - self.least) / (self.many - self.fewest)
        return replace(self.steps, shift=math.exp(mu))

    def spread(self, steps: int, process: Process) -> Tensor:
        raise InputError("this time grid depends on the size of the picture: ask it `of` the states' shape first")

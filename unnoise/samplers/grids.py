"""Time grids: at which times a sampler stops. Each gives `steps + 1` times, strictly falling, from exactly 1 to exactly 0 (those of
open checkpoints, in timesteps.py, from where these start to where they end).

Grids in the noise level (Karras, LogSNR) spread `steps` times over the part of their range that the schedule has, put the first
at t = 1, where the prior stands, and add t = 0.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.processes import Process
from unnoise.core.schedules import Schedule
from unnoise.core.state import Shape
from unnoise.core.times import schedule_of


class Walk(NamedTuple):
    """How diffusers' class of a sampler walks the timesteps of a model whose file names another class.

    spare: 1 if it spaces one more timestep than it visits. ends: 0 at the data, 1 at the first timestep, None where the model's own
    walk ends. student: it visits but those timesteps that students of consistency were taught.
    """

    spare: int = 0
    ends: int | None = 0
    student: bool = False


class Grid(ABC):
    """A frozen dataclass."""

    @abstractmethod
    def spread(self, steps: int, process: Process) -> Tensor:
        """(steps + 1,) float64 times, falling from 1 to 0."""

    def of(self, shape: Shape) -> "Grid":
        """This grid for states of that shape; most grids are the same for all."""
        return self

    def walked(self, walk: "Walk") -> "Grid":
        """These timesteps as another sampler walks them; this grid where there are no timesteps."""
        return self

    def respaced(self, walk: "Walk") -> "Grid | None":
        """Karras' times between these timesteps' first and last, as a sampler walks them; None where there are no timesteps."""
        return None

    def times(self, steps: int, process: Process) -> Tensor:
        """(steps + 1,) float64, strictly falling, 1 to 0. Raises InputError if steps < 1, or so many that times coincide."""
        if steps < 1:
            raise InputError(f"{steps} sampling steps: at least 1 is needed")
        times = self.spread(steps, process)
        if len(times) < 2:
            raise InputError(
                f"{steps} sampling steps: the only timestep of this walk is where it ends; say more --steps, or a --sampler"
            )
        if not bool((times[1:] < times[:-1]).all()):
            raise InputError(f"{steps} sampling steps: on this time grid ({type(self).__name__}) some fall together; take fewer")
        return times


def _from(steps: int) -> Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def _through(log_snr: Tensor, schedule: Schedule) -> Tensor:
    """`steps` rising log-SNRs -> times, the first moved to 1, and 0 at the end."""
    times = schedule.time(log_snr)
    return torch.cat([times.new_ones(1), times[1:], times.new_zeros(1)])


def _least_log_snr(schedule: Schedule) -> float:
    return float(schedule.log_snr(torch.ones((), dtype=torch.float64)))


@dataclass(frozen=True)
class Uniform(Grid):
    """Equal steps in t."""

    def spread(self, steps: int, process: Process) -> Tensor:
        return _from(steps)


@dataclass(frozen=True)
class Quadratic(Grid):
    """Equal steps in sqrt(t), dense near the data: Song et al. 2020 (2010.02502), appendix D.2."""

    def spread(self, steps: int, process: Process) -> Tensor:
        return _from(steps) ** 2


@dataclass(frozen=True)
class Shifted(Grid):
    """t' = shift t / (1 + (shift - 1) t) of equal steps t; shift > 1 dwells near the noise. SD3 (2403.03206), eq. 23."""

    shift: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.shift < math.inf:
            raise InputError(f"Shifted shift {self.shift} must be positive")

    def spread(self, steps: int, process: Process) -> Tensor:
        t = _from(steps)
        return self.shift * t / (1 + (self.shift - 1) * t)


@dataclass(frozen=True)
class Karras(Grid):
    """Equal steps in (sigma / alpha)^(1 / rho): Karras et al. 2022 (2206.00364), eq. 5. Clipped to what the schedule has."""

    rho: float = 7.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not (self.rho > 0 and 0 < self.sigma_min < self.sigma_max < math.inf):
            raise InputError(f"{self}: rho must be positive and 0 < sigma_min < sigma_max")

    def spread(self, steps: int, process: Process) -> Tensor:
        schedule = schedule_of(process, self, "Uniform")
        top = min(self.sigma_max, math.exp(min(700.0, -0.5 * _least_log_snr(schedule))))
        a, b = top ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        ratio = torch.linspace(a, b, steps, dtype=torch.float64) ** self.rho
        return _through(-2 * ratio.log(), schedule)


@dataclass(frozen=True)
class LogSNR(Grid):
    """Equal steps in log-SNR from `low` (or the schedule's least) to `high`."""

    low: float = -9.0
    high: float = 10.0

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise InputError(f"{self}: low must be below high")

    def spread(self, steps: int, process: Process) -> Tensor:
        schedule = schedule_of(process, self, "Uniform")
        return _through(torch.linspace(max(self.low, _least_log_snr(schedule)), self.high, steps, dtype=torch.float64), schedule)

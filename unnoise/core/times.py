"""At which times a denoiser is trained: distributions over (0, 1), each given by its inverse cumulative function.

A draw is ppf(u) for a uniform u of the sample's own, so that any of them can be drawn evenly over the batch as well
(`LowDiscrepancy`; Kingma et al. 2021, VDM, 2107.00630, appendix I.1, took u_i = frac(u_0 + i / B)).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.processes import Gaussian, Process, Torus
from unnoise.core.processes.categorical import Categorical
from unnoise.core.random import Streams
from unnoise.core.schedules import Schedule

EDGE = 1e-9
"""Times are drawn from [EDGE, 1 - EDGE]: at the ends themselves there is nothing to learn, and log_snr may be infinite."""


def schedule_of(process: Process, who: object, instead: str = "UniformTimes") -> Schedule:
    """The process's one schedule. InputError for a process of several fields: `who` needs it, `instead` does not."""
    if isinstance(process, Gaussian | Categorical | Torus):
        return process.schedule
    raise InputError(
        f"{who} needs a process with one noise schedule; this one is {type(process).__name__}. {instead} works for all"
    )


class Times(ABC):
    """A distribution of times; a frozen dataclass."""

    @abstractmethod
    def ppf(self, u: Tensor, process: Process) -> Tensor:
        """The time below which a fraction u of the draws lies: u (...) in (0, 1) -> (...), float64."""

    def uniform(self, rng: Streams) -> Tensor:
        """The uniforms that are pushed through `ppf`: (B,) float64 in (0, 1)."""
        return rng.uniform("time", dtype=torch.float64)

    def draw(self, rng: Streams, process: Process) -> Tensor:
        """One time a sample: (B,) float64 in (0, 1), on the CPU."""
        u = self.uniform(rng).clamp(min=2.0**-54)
        return self.ppf(u, process).clamp(EDGE, 1 - EDGE)


@dataclass(frozen=True)
class UniformTimes(Times):
    """t ~ U(0, 1), in the schedule's own time."""

    def ppf(self, u: Tensor, process: Process) -> Tensor:
        return u


@dataclass(frozen=True)
class LogitNormal(Times):
    """logit t ~ N(mean, std^2). Esser et al. 2024 (SD3, 2403.03206, eq. 19); mean > 0 leans towards noise."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_normal(self)

    def ppf(self, u: Tensor, process: Process) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True)
class LogNormalSigma(Times):
    """ln(sigma / alpha) ~ N(mean, std^2), whatever the schedule. Karras et al. 2022 (EDM, 2206.00364, table 1)."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        _check_normal(self)

    def ppf(self, u: Tensor, process: Process) -> Tensor:
        ln_sigma = self.mean + self.std * torch.special.ndtri(u)
        return schedule_of(process, "LogNormalSigma").time(-2 * ln_sigma)


@dataclass(frozen=True)
class Mixture(Times):
    """A fraction `share` of the times from `other`, the rest from `base`.

    A logit-normal leaves the noise itself all but unlearnt (half a thousandth of its draws lie above t = .97); a tenth of
    uniform times mends that for a tenth of the training.
    """

    base: Times
    other: Times = UniformTimes()
    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"{self}: the share must lie between 0 and 1")

    def ppf(self, u: Tensor, process: Process) -> Tensor:
        """Inverse within each part, the parts one after the other: draws are right, but do not grow with u throughout."""
        theirs = u < self.share
        other = self.other.ppf(torch.where(theirs, u / self.share, 0.5), process)
        return torch.where(theirs, other, self.base.ppf(torch.where(theirs, 0.5, (u - self.share) / (1 - self.share)), process))


@dataclass(frozen=True)
class LowDiscrepancy(Times):
    """Draws of `base` that cover its distribution evenly over the batch: see `Streams.spread`.

    A sample's time depends on its place in the run, its step and the run's seed, not on who shares its batch or its process.
    """

    base: Times = UniformTimes()

    def uniform(self, rng: Streams) -> Tensor:
        return rng.spread("time")

    def ppf(self, u: Tensor, process: Process) -> Tensor:
        return self.base.ppf(u, process)


def _check_normal(times: LogitNormal | LogNormalSigma) -> None:
    if not (math.isfinite(times.mean) and math.isfinite(times.std) and times.std > 0):
        raise InputError(f"{times}: the mean must be finite and the standard deviation positive")

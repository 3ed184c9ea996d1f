"""The variational bound of a Gaussian process: -log p(x), at most, in bits per dimension. Kingma et al. 2021 (VDM, 2107.00630).

    -log p(x) <= KL(q(x_1 | x) | N(0, sigma_1^2))                                    prior
                 + E -log p(x | x_0')                                                reconstruction, at l = log_snr_max
                 + 1/2 integral over l = log_snr from l(1) to log_snr_max of  e^l E |x - x0_hat(x_t)|^2 dl     diffusion (eq. 17)

Over l the integral does not know the schedule, and its integrand, half the error of the noise, is bounded: l is drawn uniformly,
evenly over the batch. Below l = -20 nothing is left to integrate. Data in levels: p(x | x_0') is, in each dimension, the mass of
the normal law around x_0' / alpha within half a step of the level, and beyond for the last ones (DDPM, 2006.11239, eq. 13).
Continuous data: the normal density of x around the denoiser's mean, with deviation sigma / alpha as the true posterior has where
the data's density is flat over that length; the bound is then on a density. Any p(x | x_0') gives a bound: with `width`, the
levels are read off the denoiser's mean instead, with that deviation, and the path may end at more noise than such a network could
take away.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoiser
from unnoise.core.errors import InputError
from unnoise.core.objectives import PerSample, on_device
from unnoise.core.processes import Gaussian, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import Batch, expand, over_dimensions


@dataclass(frozen=True)
class Levels:
    """Discrete data: `count` values from `low` to `high`, evenly spaced; 256 for pictures of 8 bits scaled to [-1, 1]."""

    count: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.count < 2 or not self.low < self.high:
            raise InputError(f"{self}: at least 2 levels from low to a greater high are needed")


@dataclass(frozen=True)
class VariationalBound(PerSample):
    """Bits per dimension, from one noise level a sample. levels None: continuous data.

    log_snr_max: where x_0' stands. 13.3 is what VDM learned for 256 levels (there sigma is 1/6 of their distance); for continuous
    data the higher, the tighter, down to float32's rounding at about 18. width: of the normal density around the denoiser's mean
    that levels are read off; None: they are read off x_0' alone.
    """

    levels: Levels | None = Levels()
    log_snr_max: float = 13.3
    width: float | None = None

    def __post_init__(self) -> None:
        if self.width is not None and not 0 < self.width < math.inf:
            raise InputError(f"width {self.width} is a standard deviation: above 0")

    def losses(self, denoiser: Denoiser, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor]:
        process, x = gaussian(denoiser.process, "VariationalBound"), tensor(batch.x)
        high, low = self.log_snr_max, max(_log_snr(process, 1.0), -20.0)
        if not low < high:
            raise InputError(f"log_snr_max {high} must be above the schedule's lowest log_snr, {low:.3g}")
        l = low + (high - low) * rng.spread("time").clamp(2.0**-54, 1 - 2.0**-53)
        t = on_device(process.schedule.time(l), x)
        corrupted = process.corrupt(x, t, rng)
        said, noise = mean(denoiser(corrupted.x_t, t, batch.cond)), tensor(corrupted.noise)
        snr = expand(on_device(l, x).exp(), x)
        luck = (snr / (1 + snr)) ** 2 * (noise**2 - 1)  # mean 0, and most of the variance: a control variate
        diffusion = 0.5 * (high - low) * (snr * (x - said) ** 2 - luck)
        nats = over_dimensions(diffusion) + self._reconstruction(process, denoiser, batch, rng) + _prior(process, x)
        return nats / math.log(2), t

    def _reconstruction(self, process: Gaussian, denoiser: Denoiser, batch: Batch, rng: Streams) -> Tensor:
        x = tensor(batch.x)
        t = on_device(process.schedule.time(torch.full((len(x),), self.log_snr_max, dtype=torch.float64)), x)
        x_t = tensor(process.corrupt(x, t, rng.scoped("reconstruction")).x_t)
        std = math.exp(-0.5 * self.log_snr_max)
        if self.levels is None:
            error = (x - mean(denoiser(x_t, t, batch.cond))) / std
            return over_dimensions(0.5 * error**2) + 0.5 * math.log(2 * math.pi) + math.log(std)
        step = (self.levels.high - self.levels.low) / (self.levels.count - 1)
        true = ((x - self.levels.low) / step).round().long()
        off = (x - self.levels.low - true * step).abs() > 0.01 * step
        if bool((off | (true < 0) | (true >= self.levels.count)).any()):
            raise InputError(f"the data are not on the {self.levels}; scale them, or take levels=None for continuous data")
        if self.width is None:
            near = x_t / expand(process.schedule.alpha(t), x)
        else:
            near, std = mean(denoiser(x_t, t, batch.cond)), self.width
        above = (x + step / 2 - near).double() / std
        above = torch.where(true == self.levels.count - 1, math.inf, above)
        below = (x - step / 2 - near).double() / std
        below = torch.where(true == 0, -math.inf, below)
        return -over_dimensions(_log_mass(below, above)).to(x.dtype)


def _log_mass(low: Tensor, high: Tensor) -> Tensor:
    """log (Phi(high) - Phi(low)) for low < high, however small: in the tail where both are negative, by symmetry."""
    swap = low + high > 0
    low, high = torch.where(swap, -high, low), torch.where(swap, -low, high)
    log_high = torch.special.log_ndtr(high)
    return log_high + torch.log1p(-(torch.special.log_ndtr(low) - log_high).exp())


def _prior(process: Gaussian, x: Tensor) -> Tensor:
    """KL(N(alpha_1 x, sigma_1^2) | N(0, sigma_1^2)), averaged over dimensions: the process's prior leaves the signal out."""
    snr = math.exp(_log_snr(process, 1.0))
    return over_dimensions(0.5 * snr * x**2)


def _log_snr(process: Gaussian, t: float) -> float:
    return float(process.schedule.log_snr(torch.tensor(t, dtype=torch.float64)))

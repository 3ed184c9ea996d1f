"""Exact log-likelihood by the probability-flow ODE: Song et al. 2021 (2011.13456), eq. 39.

In y = x / sqrt(alpha^2 + sigma^2), with a = cos phi, b = sin phi, tan phi = sigma / alpha, the ODE of every schedule is
    dy/dphi = (a y - x0(x, t)) / b,   0 < phi <= pi / 2,   bounded up to and at alpha = 0,
and log p(y_0) = log p(y_1) + int tr d(dy/dphi)/dy dphi, with the prior N(a_1 m, b_1^2) at the end, m = x0(0, 1) being what the
denoiser expects of the data when it sees nothing: with linear VP a_1 = 0.0066 of the signal is still there at t = 1. Classical
Runge-Kutta (RK4) on a fixed grid, equal steps in r^(1/5) for r = sigma / (alpha + sigma), so a sample's value does not depend on
its batch. The trace is exact, or Hutchinson's estimate (Grathwohl et al. 2018, FFJORD, 1810.01367).

It starts at the noise-to-signal ratio `noise_min` > 0: what is measured is the density of data + noise_min eps, whose logarithm
differs from the data's by noise_min^2 / 2 (laplacian p) / p: about (noise_min / d)^2 / 2 nats a direction of standard deviation d.
What the prior leaves out at t = 1 is of second order, (a_1 / b_1)^2 times the data's variance, a direction.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State, expand, times_like
from unnoise.samplers.renoise import noise_ratio, time_of_ratio


class Divergence(ABC):
    """How tr dv/dx is found; a frozen dataclass."""

    @abstractmethod
    def probes(self, x: Tensor, rng: Streams) -> Tensor:
        """Directions (P, B, ...), fixed for the whole path; tr J is the mean of p.J p times `scale` over them."""

    @abstractmethod
    def scale(self, x: Tensor) -> float: ...


@dataclass(frozen=True)
class Exact(Divergence):
    """All D unit vectors: D backward passes a call."""

    def probes(self, x: Tensor, rng: Streams) -> Tensor:
        d = x[0].numel()
        return torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)

    def scale(self, x: Tensor) -> float:
        return float(x[0].numel())


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """Random signs (Rademacher): unbiased, variance 2 |off-diagonal of the symmetric part|^2 / count."""

    count: int = 1

    def probes(self, x: Tensor, rng: Streams) -> Tensor:
        u = rng.uniform("probe", (self.count, *x.shape[1:]), device=x.device)
        return (2.0 * (u < 0.5) - 1).to(x.dtype).transpose(0, 1)

    def scale(self, x: Tensor) -> float:
        return 1.0


@dataclass(frozen=True)
class Likelihood:
    """log p(x) in nats.

    steps: RK4 steps, four calls each (every call with as many backward passes as the divergence has probes), and one for the prior.
    noise_min: the noise-to-signal ratio sigma / alpha where the path starts; small against the data's finest detail.
    """

    divergence: Divergence = Hutchinson()
    steps: int = 64
    noise_min: float = 1e-3

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.noise_min < 1:
            raise InputError(f"likelihood: steps {self.steps} must be at least 1 and noise_min {self.noise_min} in (0, 1)")

    def calls(self) -> int:
        return 4 * self.steps + 1

    def __call__(self, denoise: Denoise, process: Process, x: State, rng: Streams) -> Tensor:
        """Data x (B, ...) in the codec's units -> log p(x) (B,) float64, nats. The denoiser must be differentiable in x_t."""
        schedule, x = gaussian(process, "the likelihood").schedule, tensor(x)
        probes, scale = self.divergence.probes(x, rng), self.divergence.scale(x)
        phi_1 = float(torch.atan(noise_ratio(schedule, torch.ones((), dtype=torch.float64))))

        def velocity(y: Tensor, phi: float) -> tuple[Tensor, Tensor]:
            """dy/dphi (B, ...) and its divergence (B,)."""
            ratio = math.tan(phi) if phi < phi_1 else math.inf  # time(ratio beyond the range) = 1, exactly
            t = time_of_ratio(schedule, times_like(ratio, y))
            norm = torch.hypot(schedule.alpha(t), schedule.sigma(t))
            with torch.enable_grad():
                y = y.detach().requires_grad_(True)
                v = (math.cos(phi) * y - mean(denoise(expand(norm, y) * y, t))) / math.sin(phi)
                trace = torch.zeros(len(y), dtype=torch.float64, device=y.device)
                for i, p in enumerate(probes):
                    (jp,) = torch.autograd.grad(v, y, p, retain_graph=i + 1 < len(probes))
                    trace += (jp * p).double().flatten(1).sum(1)
            return v.detach(), trace * (scale / len(probes))

        phi = self._grid(phi_1)
        y, log_det = x * math.cos(phi[0]), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for p, q in pairwise(phi):
            h = q - p
            k1, d1 = velocity(y, p)
            k2, d2 = velocity(y + h / 2 * k1, p + h / 2)
            k3, d3 = velocity(y + h / 2 * k2, p + h / 2)
            k4, d4 = velocity(y + h * k3, q)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            log_det = log_det + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        dims, b_1 = x[0].numel(), math.sin(phi_1)
        with torch.no_grad():
            centre = math.cos(phi_1) * mean(denoise(torch.zeros_like(y), times_like(1.0, y)))
        square = ((y - centre).double() ** 2).flatten(1).sum(1)
        prior = -0.5 * square / b_1**2 - dims * (math.log(b_1) + 0.5 * math.log(2 * math.pi))
        return prior + log_det + dims * math.log(math.cos(phi[0]))  # the last term: from the density of y back to that of x

    def _grid(self, phi_1: float) -> list[float]:
        def root(phi: float) -> float:
            return (math.sin(phi) / (math.sin(phi) + math.cos(phi))) ** 0.2

        first, last = root(math.atan(self.noise_min)), root(phi_1)
        r = [(first + i / self.steps * (last - first)) ** 5 for i in range(self.steps)]
        return [*(math.atan2(ri, 1 - ri) for ri in r), phi_1]

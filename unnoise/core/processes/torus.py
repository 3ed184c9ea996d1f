"""The torus: angles, destroyed by a wrapped normal. x_t = wrap(x_0 + sigma(t) eps).

Jing et al. 2022 (torsional diffusion, 2206.01729); De Bortoli et al. 2022 (2202.02763). The bridge is exact: the number of
turns k that the noise made is drawn from its posterior p(k) ~ N(x_t - x_0 + 2 pi k; 0, sigma_t^2); given k the path is a
Brownian bridge on the line.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.predictions import Prediction, Tangent
from unnoise.core.processes.base import Corrupted, Process
from unnoise.core.processes.categorical import inverse_cdf
from unnoise.core.processes.gaussian import tensor, tensor_shape
from unnoise.core.random import Streams
from unnoise.core.schedules import VE, Schedule
from unnoise.core.state import Shape, State, expand


def wrap(x: Tensor) -> Tensor:
    """The angle in [-pi, pi)."""
    return torch.remainder(x + math.pi, 2 * math.pi) - math.pi


@dataclass(frozen=True)
class Torus(Process):
    """Angles (B, ...) in radians, in [-pi, pi). At sigma(1) = 2 pi the prior is uniform to 6e-9."""

    schedule: Schedule = VE(sigma_min=0.01 * math.pi, sigma_max=2 * math.pi)

    def prior(self, shape: Shape, rng: Streams, device: torch.device | str = "cpu") -> Tensor:
        return (2 * rng.uniform("prior", tensor_shape(shape), device=device) - 1) * math.pi

    def corrupt(self, x: State, t: Tensor, rng: Streams) -> Corrupted:
        x = tensor(x)
        noise = rng.normal("noise", x.shape[1:], device=x.device).to(x.dtype)
        return Corrupted(wrap(x + expand(self.schedule.sigma(t), x) * noise), noise)

    def turns(self, x_t: Tensor, x_0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The ways d_k = x_0 - x_t + 2 pi k from x_t to x_0, and log p(k | x_t, x_0): both (B, ..., K)."""
        sigma = expand(self.schedule.sigma(t), x_t.double())[..., None]
        reach = 2 + math.ceil(7 * float(sigma.max()) / (2 * math.pi))
        k = torch.arange(-reach, reach + 1, dtype=torch.float64, device=x_t.device)
        d = wrap(x_0.double() - x_t.double())[..., None] + 2 * math.pi * k
        return d, torch.log_softmax(-(d**2) / (2 * sigma.clamp(min=1e-12) ** 2), dim=-1)

    def bridge(self, x_t: State, x_0: State, t: Tensor, s: Tensor, eta: float, rng: Streams) -> Tensor:
        x_t, x_0 = tensor(x_t), tensor(x_0)
        d, logp = self.turns(x_t, x_0, t)
        k = inverse_cdf(logp.exp(), rng.uniform("turns", x_t.shape[1:], dtype=torch.float64, device=x_t.device))
        return self._along(x_t, d.gather(-1, k[..., None])[..., 0].to(x_t.dtype), t, s, eta, rng)

    def back(self, x_t: State, said: Prediction, t: Tensor, s: Tensor, eta: float, rng: Streams) -> Tensor:
        if not isinstance(said, Tangent):
            raise InputError(f"a torus needs a denoiser that predicts a Tangent; this one predicts {type(said).__name__}")
        return self._along(tensor(x_t), said.v, t, s, eta, rng)

    def _along(self, x_t: Tensor, way: Tensor, t: Tensor, s: Tensor, eta: float, rng: Streams) -> Tensor:
        """The Brownian bridge from x_t along `way` = x_0 - x_t, stopped at time s."""
        sigma_t, sigma_s = self.schedule.sigma(t), self.schedule.sigma(s)
        v = eta**2 * sigma_s**2 * (1 - (sigma_s / sigma_t) ** 2)
        left = (sigma_s**2 - v).clamp(min=0).sqrt() / sigma_t
        x_s = x_t + expand(1 - left, x_t) * way
        if eta > 0:
            x_s = x_s + expand(v.sqrt(), x_t) * rng.normal("bridge", x_t.shape[1:], device=x_t.device).to(x_t.dtype)
        return wrap(x_s)

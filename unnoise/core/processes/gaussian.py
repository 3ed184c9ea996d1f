"""The Gaussian process: x_t = alpha(t) x_0 + sigma(t) eps, eps ~ N(0, I).

Bridge (Song et al. 2020, DDIM, 2010.02502, eq. 7, for any alpha and sigma):
    x_s = alpha_s x_0 + sqrt(sigma_s^2 - v) (x_t - alpha_t x_0) / sigma_t + sqrt(v) z,   v = eta^2 v_1,
    v_1 = sigma_s^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2)   (the variance of q(x_s | x_t, x_0)).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.predictions import Mean, Prediction
from unnoise.core.processes.base import Corrupted, Process
from unnoise.core.random import Streams
from unnoise.core.schedules import Schedule
from unnoise.core.state import Shape, State, expand


@dataclass(frozen=True)
class Gaussian(Process):
    """Continuous data (B, ...) in float32, destroyed by Gaussian noise.

    signal_std: the standard deviation of the data that the prior stands in for where alpha(1) is not 0; 0 leaves it out.
    """

    schedule: Schedule
    signal_std: float = 0.0

    def prior(self, shape: Shape, rng: Streams, device: torch.device | str = "cpu") -> Tensor:
        """N(0, sigma(1)^2 + (alpha(1) signal_std)^2)."""
        one = torch.ones((), dtype=torch.float64)
        scale = math.hypot(float(self.schedule.sigma(one)), float(self.schedule.alpha(one)) * self.signal_std)
        return rng.normal("prior", tensor_shape(shape), device=device) * scale

    def mix(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """alpha(t) x + sigma(t) noise."""
        return expand(self.schedule.alpha(t), x) * x + expand(self.schedule.sigma(t), x) * noise

    def corrupt(self, x: State, t: Tensor, rng: Streams) -> Corrupted:
        x = tensor(x)
        noise = rng.normal("noise", x.shape[1:], device=x.device).to(x.dtype)
        return Corrupted(self.mix(x, noise, t), noise)

    def bridge(self, x_t: State, x_0: State, t: Tensor, s: Tensor, eta: float, rng: Streams) -> Tensor:
        x_t, x_0 = tensor(x_t), tensor(x_0)
        alpha_t, sigma_t, alpha_s, sigma_s = (f(u) for u in (t, s) for f in (self.schedule.alpha, self.schedule.sigma))
        v = eta**2 * sigma_s**2 * (1 - (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2).clamp(min=0)
        noise_left = (sigma_s**2 - v).clamp(min=0).sqrt() / sigma_t
        x_s = expand(alpha_s - noise_left * alpha_t, x_t) * x_0 + expand(noise_left, x_t) * x_t
        if eta > 0:
            x_s = x_s + expand(v.sqrt(), x_t) * rng.normal("bridge", x_t.shape[1:], device=x_t.device).to(x_t.dtype)
        return x_s

    def back(self, x_t: State, said: Prediction, t: Tensor, s: Tensor, eta: float, rng: Streams) -> Tensor:
        return self.bridge(x_t, mean(said), t, s, eta, rng)


def gaussian(process: Process, who: str) -> Gaussian:
    """The process, if it is Gaussian; else InputError: `who` solves the ODE or SDE of a Gaussian process only."""
    if isinstance(process, Gaussian):
        return process
    raise InputError(
        f"{who} solves the differential equation of a Gaussian process; this one is {type(process).__name__}. "
        "The samplers 'ancestral' and 'ddim' work for every process"
    )


def mean(said: Prediction) -> Tensor:
    """E[x_0 | x_t] of a Gaussian denoiser's prediction."""
    if not isinstance(said, Mean):
        raise InputError(f"a Gaussian process needs a denoiser that predicts a Mean; this one predicts {type(said).__name__}")
    return said.x0


def tensor(x: State) -> Tensor:
    if not isinstance(x, Tensor):
        raise InputError(f"this process acts on one tensor; the data has the fields {sorted(x)}: use Product")
    return x


def tensor_shape(shape: Shape) -> tuple[int, ...]:
    if not isinstance(shape, tuple):
        raise InputError(f"this process acts on one tensor; the data has the fields {sorted(shape)}: use Product")
    return shape

"""Euler-Maruyama for the reverse SDE: Song et al. 2021 (2011.13456), eq. 6, in the coordinates of their eq. 46 (reverse diffusion).

In xhat = x / alpha against V = (sigma / alpha)^2 the reverse SDE is d xhat = -score dV + dW (V falling), so a step is
    xhat_s = xhat_t + (V_t - V_s) score(xhat_t) + sqrt(V_t - V_s) z,   score = -(xhat_t - x0) / V_t.
With r = V_s / V_t this is x_s = (alpha_s / alpha_t) r x_t + alpha_s (1 - r) x0 + noise: stable for any step. As usual the last
step leaves its noise out. At alpha = 0 the noise would be infinite; there the exact x_s = alpha_s x0 + sigma_s z is taken.

Weak order 1. Each step adds V_t - V_s where the exact bridge adds r (V_t - V_s), so x is noisier than t says, by about the factor
1 / r in variance: it wants several times the steps of `Ancestral(eta=1)`, which is exact where this one is Euler.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State, expand
from unnoise.samplers.loop import Sampler


@dataclass(frozen=True)
class EulerMaruyama(Sampler[None]):
    """One call a step."""

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        schedule, x = gaussian(process, "Euler-Maruyama").schedule, tensor(x)
        alpha_t, sigma_t, alpha_s, sigma_s = (f(u) for u in (t, s) for f in (schedule.alpha, schedule.sigma))
        r = (alpha_t * sigma_s / (sigma_t * alpha_s)) ** 2
        keep = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2)  # (alpha_s / alpha_t) r
        noise = torch.where(alpha_t > 0, alpha_s * sigma_t / alpha_t * (1 - r).clamp(min=0).sqrt(), sigma_s)
        x_s = expand(keep, x) * x + expand(alpha_s * (1 - r), x) * mean(denoise(x, t))
        z = rng.normal("sde", x.shape[1:], device=x.device).to(x.dtype)
        return x_s + expand(torch.where(s > 0, noise, 0), x) * z, None

    def calls(self, steps: int) -> int:
        return steps

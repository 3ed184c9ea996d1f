"""Heun's method with churn: Karras et al. 2022 (EDM, 2206.00364), algorithm 2, for any alpha.

In xhat = x / alpha, sigma_hat = sigma / alpha, with d = eps:
    churn   sigma_hat' = (1 + gamma) sigma_hat,  xhat' = xhat + sqrt(sigma_hat'^2 - sigma_hat^2) S_noise z
    Euler   xhat_e = xhat' + (sigma_hat_s - sigma_hat') d'
    Heun    xhat_s = xhat' + (sigma_hat_s - sigma_hat') (d' + d_e) / 2
Because xhat_e lies on the Euler line, d_e - d' = (x0' - x0_e) / sigma_hat_s, and the correction needs no division by alpha:
    x_s = x_e + alpha_s / 2 (e^h - 1) (x0_e - x0'),   e^h = sigma_hat' / sigma_hat_s.
The last step, to sigma = 0, and a step from alpha = 0 are Euler's.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State, expand
from unnoise.samplers.loop import Sampler
from unnoise.samplers.renoise import noise_ratio, renoise, time_of_ratio


@dataclass(frozen=True)
class Heun(Sampler[None]):
    """Second order; two calls a step, one for the last.

    churn: gamma above, 0 (deterministic) to sqrt(2) - 1; the paper's S_churn / steps. It acts where sigma / alpha lies in
    [churn_min, churn_max] (S_tmin, S_tmax); churn_noise is S_noise.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.churn <= math.sqrt(2) - 1:
            raise InputError(f"Heun churn {self.churn} must lie in [0, sqrt(2) - 1]; it is the noise added a step, S_churn / steps")

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        process, x = gaussian(process, "Heun"), tensor(x)
        schedule = process.schedule
        if self.churn > 0:
            ratio = noise_ratio(schedule, t)
            u = torch.maximum(time_of_ratio(schedule, (1 + self.churn) * ratio), t)
            acts = (ratio >= self.churn_min) & (ratio <= self.churn_max) & (schedule.alpha(u) > 0)
            z = self.churn_noise * rng.normal("churn", x.shape[1:], device=x.device)
            x = torch.where(expand(acts, x).bool(), renoise(process, x, t, u, z), x)
            t = torch.where(acts, u, t)
        x0 = mean(denoise(x, t))
        x_e = process.bridge(x, x0, t, s, 0.0, rng)
        smooth = (s > 0) & (schedule.alpha(t) > 0)
        if bool((s > 0).any()):
            # a row that ends at s = 0 only keeps the others company: it is asked at t, and not used
            there = expand(s > 0, x).bool()
            x0_e = mean(denoise(torch.where(there, x_e, x), torch.where(s > 0, s, t)))
            growth = torch.where(smooth, noise_ratio(schedule, t) / noise_ratio(schedule, s) - 1, 0)
            x_e = x_e + expand(schedule.alpha(s) * growth / 2, x) * (x0_e - x0)
        return x_e, None

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

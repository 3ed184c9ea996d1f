"""DPM-Solver-2, the midpoint rule: Lu et al. 2022 (2206.00927), algorithm 1 with r_1 = 1/2; k-diffusion's "DPM2".

In sigma_hat = sigma / alpha, with d = eps and the middle m at the geometric mean of both ends, half-way in log-SNR:
    xhat_m = xhat_t + (sigma_hat_m - sigma_hat_t) d,   xhat_s = xhat_t + (sigma_hat_s - sigma_hat_t) d_m
(k-diffusion's form; the paper's exponential weights differ from it in the third order). Written as a correction of the DDIM step:
    x_s = alpha_s (x0 + sigma_hat_s d) + alpha_s (sigma_hat_s - sigma_hat_t) (d_m - d).
With eta > 0 (1 is k-diffusion's "DPM2 a") the step is longer, with r = sigma_hat to r_e^2 = r_s^2 - eta^2 r_s^2 (1 - (r_s/r_t)^2),
and as much noise is added as lacks to r_s; the middle is that of r_t and r_e. A step to t = 0, or from alpha = 0, is the process's.
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
from unnoise.samplers.plms import noise_in
from unnoise.samplers.renoise import noise_ratio, time_of_ratio


@dataclass(frozen=True)
class Midpoint(Sampler[None]):
    """Second order without noise; two calls a step, one for the last."""

    eta: float = 0.0

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        process, x = gaussian(process, "DPM-Solver-2"), tensor(x)
        schedule = process.schedule
        x0 = mean(denoise(x, t))
        own = process.bridge(x, x0, t, s, self.eta, rng)
        if not bool((s > 0).any()):
            return own, None
        smooth = (s > 0) & (schedule.alpha(t) > 0)
        there = expand(smooth, x).bool()
        r_t, r_s = (torch.where(smooth, noise_ratio(schedule, u), 1.0) for u in (t, s))
        lacks = self.eta * r_s * (1 - (r_s / r_t) ** 2).clamp(min=0).sqrt()
        r_e = (r_s**2 - lacks**2).sqrt()
        middle = torch.where(smooth, time_of_ratio(schedule, (r_t * r_e).sqrt()), t)
        x_m = torch.where(there, process.bridge(x, x0, t, middle, 0.0, rng), x)
        d, d_m = noise_in(schedule, x, x0, t), noise_in(schedule, x_m, mean(denoise(x_m, middle)), middle)
        x_s = x0 + expand(r_e, x) * d + expand(r_e - r_t, x) * (d_m - d)
        if self.eta > 0:
            x_s = x_s + expand(lacks, x) * rng.normal("bridge", x.shape[1:], device=x.device).to(x.dtype)
        return torch.where(there, expand(schedule.alpha(s), x) * x_s, own), None

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

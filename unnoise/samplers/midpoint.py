"""DPM-Solver-2, the midpoint rule: Lu et al. 2022 (2206.00927), algorithm 1 with r_1 = 1/2; k-diffusion's "DPM2".

In sigma_hat = sigma / alpha, with d = eps and the middle m at the geometric mean of both ends, half-way in log-SNR:
    xhat_m = xhat_t + (sigma_hat_m - sigma_hat_t) d,   xhat_s = xhat_t + (sigma_hat_s - sigma_hat_t) d_m
(k-diffusion's form; the paper's exponential weights differ from it in the third order). Written as a correction of the DDIM step:
    x_s = DDIM(x_t -> x_s) + (sigma_s - sigma_t alpha_s / alpha_t) (d_m - d).
A step to t = 0, or from alpha = 0, is Euler's.

Its ancestral form (k-diffusion's "DPM2 a") takes a longer step and brings noise back. With r = sigma_hat, of variance
v = r_s^2 (1 - (r_s / r_t)^2), so that the step is to sqrt(r_s^2 - v) = r_s^2 / r_t, whose geometric mean with r_t is r_s: the
middle is s itself,
    xhat_s = xhat_t + (r_s^2 / r_t - r_t) d_s + sqrt(v) z,     d_s where a DDIM step to s arrives.
A step to t = 0, or from alpha = 0, is DDPM's.
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
    """Second order; two calls a step, one for the last."""

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        process, x = gaussian(process, "DPM-Solver-2"), tensor(x)
        schedule = process.schedule
        x0 = mean(denoise(x, t))
        x_s = process.bridge(x, x0, t, s, 0.0, rng)
        if not bool((s > 0).any()):
            return x_s, None
        smooth = (s > 0) & (schedule.alpha(t) > 0)
        ratio = torch.where(smooth, noise_ratio(schedule, t) * noise_ratio(schedule, s), 1.0).sqrt()
        middle = torch.where(smooth, time_of_ratio(schedule, ratio), t)
        x_m = torch.where(expand(smooth, x).bool(), process.bridge(x, x0, t, middle, 0.0, rng), x)
        d, d_m = noise_in(schedule, x, x0, t), noise_in(schedule, x_m, mean(denoise(x_m, middle)), middle)
        gain = torch.where(smooth, schedule.sigma(s) - schedule.sigma(t) * schedule.alpha(s) / schedule.alpha(t), 0)
        return x_s + expand(gain, x) * (d_m - d), None

    def calls(self, steps: int) -> int:
        return 2 * steps - 1


@dataclass(frozen=True)
class AncestralMidpoint(Sampler[None]):
    """Two calls a step, one for the last."""

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        process, x = gaussian(process, "DPM-Solver-2"), tensor(x)
        schedule = process.schedule
        x0 = mean(denoise(x, t))
        plain = process.bridge(x, x0, t, s, 1.0, rng)
        if not bool((s > 0).any()):
            return plain, None
        smooth = (s > 0) & (schedule.alpha(t) > 0)
        x_m = process.bridge(x, x0, t, s, 0.0, rng)
        d = noise_in(schedule, x_m, mean(denoise(x_m, s)), s)
        r_t, r_s = (torch.where(smooth, noise_ratio(schedule, u), 1.0) for u in (t, s))
        z = rng.normal("bridge", x.shape[1:], device=x.device).to(x.dtype)
        alpha, share = schedule.alpha(s), (r_s / r_t) ** 2
        kept, gone = alpha / torch.where(smooth, schedule.alpha(t), 1.0), alpha * r_t * (share - 1)
        stepped = expand(kept, x) * x + expand(gone, x) * d + expand(alpha * r_s * (1 - share).clamp(min=0).sqrt(), x) * z
        return torch.where(expand(smooth, x).bool(), stepped, plain), None

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

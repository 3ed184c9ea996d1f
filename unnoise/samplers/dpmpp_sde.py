"""DPM-Solver++ (SDE), singlestep with a middle, as k-diffusion has it: the reverse SDE by one trial step and one whole one.

The exact step given x0 (exponential.py with eta = 1) is the process's ancestral one. With xhat = x / alpha, r = sigma / alpha,
    xhat_s = x0 + (r_s / r_t)^2 (xhat_t - x0) + r_s sqrt(1 - (r_s / r_t)^2) z(t, s).
Trial from t to m, half-way in log-SNR, with x0(x_t, t); then the whole step from t to s with x0(x_m, m) alone, the midpoint rule.
The noise is that of one Brownian motion W(r): z(a, b) = (W(r_a) - W(r_b)) / sqrt(r_a - r_b), so the trial and the step share it.
A step to t = 0, or from alpha = 0, is the ancestral one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.processes import Gaussian, Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State, expand
from unnoise.samplers.loop import Sampler
from unnoise.samplers.renoise import noise_ratio, time_of_ratio


@dataclass(frozen=True)
class DPMppSDE(Sampler[None]):
    """Two calls a step, one for the last."""

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        process, x = gaussian(process, "DPM-Solver++ SDE"), tensor(x)
        schedule = process.schedule
        x0 = mean(denoise(x, t))
        z1, z2 = (rng.normal(name, x.shape[1:], device=x.device).to(x.dtype) for name in ("sde", "sde/rest"))
        if not bool((s > 0).any()):
            return _ancestral(process, x, x0, t, s, z1), None
        smooth = (s > 0) & (schedule.alpha(t) > 0)
        r_t, r_s = (torch.where(smooth, noise_ratio(schedule, u), 1.0) for u in (t, s))
        r_m = (r_t * r_s).sqrt()
        m = torch.where(smooth, time_of_ratio(schedule, r_m), t)
        there = expand(smooth, x).bool()
        x_m = torch.where(there, _ancestral(process, x, x0, t, m, z1), x)
        share = torch.where(smooth, (r_t - r_m) / (r_t - r_s).clamp(min=1e-300), 1.0)  # of the Brownian time from t to s
        z = expand(share.sqrt(), x) * z1 + expand((1 - share).clamp(min=0).sqrt(), x) * z2
        return _ancestral(process, x, torch.where(there, mean(denoise(x_m, m)), x0), t, s, z), None

    def calls(self, steps: int) -> int:
        return 2 * steps - 1


def _ancestral(process: Gaussian, x: Tensor, x0: Tensor, t: Tensor, s: Tensor, z: Tensor) -> Tensor:
    """The bridge with eta = 1 and this noise: x_s ~ q(x_s | x_t, x0)."""
    schedule = process.schedule
    alpha_t, sigma_t, alpha_s, sigma_s = (f(u) for u in (t, s) for f in (schedule.alpha, schedule.sigma))
    left = (alpha_t * sigma_s / (alpha_s * sigma_t)) ** 2  # (r_s / r_t)^2
    keep = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2)
    noise = sigma_s * (1 - left).clamp(min=0).sqrt()
    return expand(keep, x) * x + expand(alpha_s * (1 - left), x) * x0 + expand(noise, x) * z

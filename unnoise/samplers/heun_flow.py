"""Heun's method along straight lines: any Gaussian process as the rectified flow that it is after scaling.

With y = x / (alpha + sigma) and u = sigma / (alpha + sigma), x_t = alpha x0 + sigma eps becomes y = (1 - u) x0 + u eps, so the
probability-flow ODE is dy/du = v = eps - x0 (Liu et al. 2022, 2209.03003). The trapezoidal rule corrects the Euler (DDIM) step:
    x_s = DDIM(x_t -> x_s) + (alpha_s + sigma_s) (u_s - u_t) / 2 (v_e - v),   v_e at the end of that step.
Nothing is divided by alpha: unlike Heun in sigma / alpha (heun.py) it is of second order from alpha = 0 on. On a rectified flow
it is plain Heun. The last step, to t = 0, is Euler's.
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


@dataclass(frozen=True)
class FlowHeun(Sampler[None]):
    """Second order; two calls a step, one for the last."""

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        process, x = gaussian(process, "Heun along a flow"), tensor(x)
        schedule = process.schedule
        x0 = mean(denoise(x, t))
        x_e = process.bridge(x, x0, t, s, 0.0, rng)
        if not bool((s > 0).any()):
            return x_e, None
        # a row that ends at s = 0 only keeps the others company: it is asked where it stands, and not used
        there, u = expand(s > 0, x).bool(), torch.where(s > 0, s, t)
        trial = torch.where(there, x_e, x)
        x0_e = mean(denoise(trial, u))
        v, v_e = noise_in(schedule, x, x0, t) - x0, noise_in(schedule, trial, x0_e, u) - x0_e
        scale_t, scale_s = (schedule.alpha(w) + schedule.sigma(w) for w in (t, s))
        half = (schedule.sigma(s) - schedule.sigma(t) * scale_s / scale_t) / 2
        return x_e + expand(torch.where(s > 0, half, 0), x) * (v_e - v), None

    def calls(self, steps: int) -> int:
        return 2 * steps - 1

"""LMS, linear multistep (Adams-Bashforth) for unequal steps in sigma_hat = sigma / alpha, as Crowson's k-diffusion has it.

The ODE is d (x / alpha) = eps d sigma_hat (Karras et al. 2022, 2206.00364, eq. 4); eps is replaced by the polynomial in sigma_hat
through its last `order` values. It is the rho-AB variant of DEIS (2204.13902, table 1); Newton's formula begins with the DDIM step:
    x_s = DDIM(x_t -> x_s) + alpha_s sum_(k>=1) eps[r_0 ... r_k] int_(r_0)^(r_s) (r - r_0) ... (r - r_(k-1)) dr.
A step from alpha = 0 is Euler's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State, expand
from unnoise.samplers.exponential import History, divided_differences, newton_basis
from unnoise.samplers.loop import Sampler
from unnoise.samplers.plms import noise_in
from unnoise.samplers.renoise import noise_ratio


@dataclass(frozen=True)
class LMS(Sampler[History]):
    """One call a step; order 1 to 4 once there is a history."""

    order: int = 4

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise InputError(f"LMS order {self.order} must be 1, 2, 3 or 4")

    def start(self, x: State) -> History:
        return History.empty(tensor(x), self.order - 1, absent=torch.inf)

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: History, rng: Streams
    ) -> tuple[State, History]:
        process, x = gaussian(process, "LMS"), tensor(x)
        schedule = process.schedule
        x0 = mean(denoise(x, t))
        eps = noise_in(schedule, x, x0, t)
        x_s = process.bridge(x, x0, t, s, 0.0, rng)
        r = noise_ratio(schedule, t)
        smooth = r.isfinite()
        gap = torch.where(smooth, noise_ratio(schedule, s) - r, 0)
        nodes = [r, *state.nodes.unbind(1)]
        differences = divided_differences(nodes, [eps, *state.values.unbind(1)])
        for coefficients, difference in zip(newton_basis([n - r for n in nodes])[1:], differences[1:]):
            integral = sum((a * gap ** (m + 1) / (m + 1) for m, a in enumerate(coefficients)), torch.zeros_like(gap))
            x_s = x_s + expand(schedule.alpha(s) * integral, x) * difference
        return x_s, state.push(r, eps) if self.order > 1 else state

    def calls(self, steps: int) -> int:
        return steps

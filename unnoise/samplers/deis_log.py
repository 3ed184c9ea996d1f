"""DEIS with its polynomial in log-SNR: Zhang & Chen 2022 (2204.13902), the log-rho variant; DPM-Solver's multistep in the noise.

eps is replaced by the polynomial in half log-SNR l = log(alpha / sigma) through its last `order` values. Newton's formula begins
with the DDIM step, and d (sigma / alpha) = -(sigma / alpha) dl makes of the rest, with h = l_s - l_0,
    x_s = DDIM(x_t -> x_s) - sigma_s sum_(k>=1) eps[l_0 ... l_k] int_0^h e^(h - tau) p_k(l_0 + tau) dtau,
    p_k(l) = (l - l_0) ... (l - l_(k-1)).
A step to t = 0, or from alpha = 0, is Euler's. DEIS in t (deis.py) is the variant that its authors prefer; this is diffusers'.
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
from unnoise.samplers.exponential import History, divided_differences, half_log_snr, moments, newton_basis
from unnoise.samplers.loop import Sampler
from unnoise.samplers.plms import noise_in


@dataclass(frozen=True)
class LogDEIS(Sampler[History]):
    """One call a step; order 1 to 3 once there is a history."""

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise InputError(f"DEIS in log-SNR: order {self.order} must be 1, 2 or 3")

    def start(self, x: State) -> History:
        return History.empty(tensor(x), self.order - 1)

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: History, rng: Streams
    ) -> tuple[State, History]:
        process, x = gaussian(process, "DEIS"), tensor(x)
        schedule = process.schedule
        x0, l_t = mean(denoise(x, t)), half_log_snr(schedule, t)
        eps = noise_in(schedule, x, x0, t)
        x_s = process.bridge(x, x0, t, s, 0.0, rng)
        if self.order == 1:
            return x_s, state
        h = half_log_snr(schedule, s) - l_t
        integrals = moments(torch.where(h.isfinite(), h, 0), self.order, c=-1.0)  # 0 where the step is Euler's
        nodes = [l_t, *state.nodes.unbind(1)]
        differences = divided_differences(nodes, [eps, *state.values.unbind(1)])
        for coefficients, difference in zip(newton_basis([n - l_t for n in nodes])[1:], differences[1:]):
            weight = sum((a * m for a, m in zip(coefficients, integrals)), torch.zeros_like(h))
            x_s = x_s + expand(schedule.sigma(s) * weight, x) * difference
        return x_s, state.push(l_t, eps)

    def calls(self, steps: int) -> int:
        return steps

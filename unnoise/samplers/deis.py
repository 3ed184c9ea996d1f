"""DEIS, the tAB variant: Zhang & Chen 2022 (2204.13902), eq. 14-15 and table 1.

With sigma_hat = sigma / alpha the ODE is d (x / alpha) = eps d sigma_hat, and eps is replaced by the polynomial in t through the
last `order` values (Adams-Bashforth). By Newton's formula, and since its 0th term alone is the Euler (DDIM) step,
    x_s = DDIM(x_t -> x_s) + alpha_s sum_(k>=1) eps[t_0 ... t_k] int_t^s (tau - t_0) ... (tau - t_(k-1)) d sigma_hat(tau).
The integrals, by parts as b(t) = 0: b(s) sigma_hat(s) - int_t^s b'(tau) sigma_hat(tau) dtau; Gauss-Legendre in w with
tau = s + (t - s) w^2, which takes the square root out of sigma_hat near t = 0. A step to t = 0, or from alpha = 0, is Euler's.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.schedules import Schedule
from unnoise.core.state import State, expand
from unnoise.samplers.exponential import History, divided_differences, newton_basis
from unnoise.samplers.loop import Sampler
from unnoise.samplers.renoise import noise_ratio

_NODES, _WEIGHTS = (torch.from_numpy(0.5 * a) for a in np.polynomial.legendre.leggauss(24))
_NODES = _NODES + 0.5  # on [0, 1]


@dataclass(frozen=True)
class DEIS(Sampler[History]):
    """tAB-DEIS with a polynomial through the last `order` (1 to 4) values of eps: order `order`, one call a step."""

    order: int = 3

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4):
            raise InputError(f"DEIS order {self.order} must be 1, 2, 3 or 4")

    def start(self, x: State) -> History:
        return History.empty(tensor(x), self.order - 1, absent=torch.inf)

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: History, rng: Streams
    ) -> tuple[State, History]:
        process, x = gaussian(process, "DEIS"), tensor(x)
        schedule = process.schedule
        x0 = mean(denoise(x, t))
        eps = (x - expand(schedule.alpha(t), x) * x0) / expand(schedule.sigma(t), x)
        x_s = process.bridge(x, x0, t, s, 0.0, rng)
        if self.order == 1:
            return x_s, state
        smooth = (s > 0) & (schedule.alpha(t) > 0)
        nodes = [t, *state.nodes.unbind(1)]
        integrals = _against_sigma_hat(schedule, newton_basis([n - t for n in nodes]), t, s)
        differences = divided_differences(nodes, [eps, *state.values.unbind(1)])
        for integral, difference in zip(integrals[1:], differences[1:]):
            x_s = x_s + expand(torch.where(smooth, schedule.alpha(s) * integral, 0), x) * difference
        return x_s, state.push(t, eps)

    def calls(self, steps: int) -> int:
        return steps


def _against_sigma_hat(schedule: Schedule, basis: list[list[Tensor]], t: Tensor, s: Tensor) -> list[Tensor]:
    """int_t^s b(tau) d sigma_hat(tau), (B,), for polynomials b in powers of tau - t (the first, 1, has b(t) != 0: not used)."""
    w = _NODES.to(t)[:, None]
    tau = s + (t - s) * w**2  # (nodes, B)
    measure = noise_ratio(schedule, tau) * 2 * (t - s) * w * _WEIGHTS.to(t)[:, None]
    out = []
    for b in basis:
        end = sum((a * (s - t) ** m for m, a in enumerate(b)), torch.zeros_like(t)) * noise_ratio(schedule, s)
        slope = sum((m * a * (tau - t) ** (m - 1) for m, a in enumerate(b) if m > 0), torch.zeros_like(tau))
        out.append(end + (slope * measure).sum(0))  # the integral runs downwards, from t to s
    return out

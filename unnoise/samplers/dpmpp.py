"""DPM-Solver++ multistep, 2M and 3M, and their SDE versions: Lu et al. 2022 (2211.01095), algorithm 2 and appendix B.

The exact solution (see exponential.py) with x0(l) a polynomial of degree order - 1 through the last `order` predictions:
    2M: x_s = k x_t + alpha_s m_0 (x0 + h / (2 h_last) (x0 - x0_last)),   m_0 = 1 - e^(-c h)
    3M: x_s = k x_t + alpha_s (m_0 x0 + m_1 x0' + m_2 x0'' / 2),          m_i the exact moments
with k = (sigma_s / sigma_t) e^(-eta^2 h), c = 1 + eta^2. (The released 3M code has half of the m_2 term and so is of second order.)
eta = 0 is the ODE; eta = 1 the reverse SDE, with fresh noise sigma_s sqrt(1 - e^(-2 eta^2 h)) z a step.
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
from unnoise.samplers.exponential import History, divided_differences, half_log_snr, moments
from unnoise.samplers.loop import Sampler


@dataclass(frozen=True)
class DPMpp(Sampler[History]):
    """One call a step. order 1, 2 (2M) or 3 (3M); eta >= 0: 0 the ODE, 1 the SDE. Order 1 with eta 0 is Euler."""

    order: int = 2
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise InputError(f"DPM-Solver++ order {self.order} must be 1, 2 or 3")
        if not self.eta >= 0:
            raise InputError(f"DPM-Solver++ eta {self.eta} must be at least 0: 0 for the ODE, 1 for the SDE")

    def start(self, x: State) -> History:
        return History.empty(tensor(x), self.order - 1)

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: History, rng: Streams
    ) -> tuple[State, History]:
        schedule, x = gaussian(process, "DPM-Solver++").schedule, tensor(x)
        x0 = mean(denoise(x, t))
        c = 1 + self.eta**2
        l_t = half_log_snr(schedule, t)
        h = half_log_snr(schedule, s) - l_t
        m = moments(h, 3, c)
        past = state.push(l_t, x0) if self.order > 1 else state
        nodes = [l_t, *state.nodes.unbind(1)]
        difference = divided_differences(nodes, [x0, *state.values.unbind(1)])
        # sigma_s / sigma_t e^(-eta^2 h), with e^-h = (alpha_t sigma_s) / (sigma_t alpha_s) exact at both ends
        shrink = schedule.alpha(t) * schedule.sigma(s) / (schedule.sigma(t) * schedule.alpha(s))
        x_s = expand(schedule.sigma(s) / schedule.sigma(t) * shrink ** (self.eta**2), x) * x
        x_s = x_s + expand(schedule.alpha(s) * m[0], x) * x0
        if self.order == 2:
            half = torch.where(h.isfinite(), m[0] * h / 2, 0)
            x_s = x_s + expand(schedule.alpha(s) * half, x) * difference[1]
        if self.order == 3:
            back = torch.where(nodes[1].isfinite(), l_t - nodes[1], 0)  # (l - l_t)(l - l_1) = tau^2 + back tau
            x_s = x_s + expand(schedule.alpha(s) * m[1], x) * difference[1]
            x_s = x_s + expand(schedule.alpha(s) * (m[2] + back * m[1]), x) * difference[2]
        if self.eta > 0:
            fresh = schedule.sigma(s) * (1 - shrink ** (2 * self.eta**2)).clamp(min=0).sqrt()
            x_s = x_s + expand(fresh, x) * rng.normal("sde", x.shape[1:], device=x.device).to(x.dtype)
        return x_s, past

    def calls(self, steps: int) -> int:
        return steps

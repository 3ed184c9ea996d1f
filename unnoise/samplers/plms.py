"""PLMS, pseudo linear multistep: Liu et al. 2022 (PNDM, 2202.09778), eq. 12-13, as latent diffusion runs it.

The noise of the last four steps is combined as Adams and Bashforth do for equal steps, and carried over by the DDIM step:
    e' = e,  (3 e - e1) / 2,  (23 e - 16 e1 + 5 e2) / 12,  (55 e - 59 e1 + 37 e2 - 9 e3) / 24
with 0, 1, 2, 3 past steps; without any, e' = (e + e_s) / 2 with e_s the noise at the end of a trial step (Heun). Written as a
correction of the DDIM step, which needs no division by alpha:
    x_s = DDIM(x_t -> x_s) + (sigma_s - sigma_t alpha_s / alpha_t) (e' - e).
A step from alpha = 0, or a first one to t = 0, is DDIM's. Second order (property 4.2); the steps should be equal in t.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.schedules import Schedule
from unnoise.core.state import State, expand
from unnoise.samplers.exponential import History
from unnoise.samplers.loop import Sampler

_WEIGHTS = torch.tensor(
    [[1, 0, 0, 0], [3 / 2, -1 / 2, 0, 0], [23 / 12, -16 / 12, 5 / 12, 0], [55 / 24, -59 / 24, 37 / 24, -9 / 24]],
    dtype=torch.float64,
)


@dataclass(frozen=True)
class PLMS(Sampler[History]):
    """One call a step, two for the first."""

    def start(self, x: State) -> History:
        return History.empty(tensor(x), 3)

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: History, rng: Streams
    ) -> tuple[State, History]:
        process, x = gaussian(process, "PLMS"), tensor(x)
        schedule = process.schedule
        x0 = mean(denoise(x, t))
        e = noise_in(schedule, x, x0, t)
        past = state.nodes.isfinite().sum(1)  # (B,)
        weights = _WEIGHTS.to(t.device)[past]  # (B, 4)
        values = [e, *state.values.unbind(1)]
        combined = sum((expand(w, x) * v for w, v in zip(weights.unbind(1), values)), torch.zeros_like(x))
        x_s = process.bridge(x, x0, t, s, 0.0, rng)
        young = (past == 0) & (s > 0)
        if bool(young.any()):
            # the other rows only keep these company: they are asked where they stand, and not used
            there, u = expand(young, x).bool(), torch.where(young, s, t)
            trial = torch.where(there, x_s, x)
            e_s = noise_in(schedule, trial, mean(denoise(trial, u)), u)
            combined = torch.where(there, (e + e_s) / 2, combined)
        gain = torch.where(schedule.alpha(t) > 0, schedule.sigma(s) - schedule.sigma(t) * schedule.alpha(s) / schedule.alpha(t), 0)
        return x_s + expand(gain, x) * (combined - e), state.push(t, e)

    def calls(self, steps: int) -> int:
        return steps + (steps > 1)


def noise_in(schedule: Schedule, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """eps = (x_t - alpha x0) / sigma, (B, ...), for t > 0."""
    return (x - expand(schedule.alpha(t), x) * x0) / expand(schedule.sigma(t), x)

"""DPM-Solver++ 2S, singlestep: Lu et al. 2022 (2211.01095), algorithm 1, over pairs of steps of the time grid.

A pair runs from a over t to s, with half log-SNR l = log(alpha / sigma), h = l_s - l_a, r = (l_t - l_a) / h:
    x_t = (sigma_t / sigma_a) x_a + alpha_t (1 - e^(-r h)) x0_a                                    (first step: Euler's)
    x_s = (sigma_s / sigma_a) x_a + alpha_s (1 - e^-h) ((1 - 1 / (2 r)) x0_a + 1 / (2 r) x0_t)     (second step: from a again)
so the middle of a pair is where the grid puts it. A step to t = 0, and one that begins at alpha = 0, is Euler's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State, expand
from unnoise.samplers.exponential import History, advance, half_log_snr
from unnoise.samplers.loop import Sampler


@dataclass(frozen=True)
class Pair:
    """The point x (B, ...) and time t (B,) that a pair began at, and x0 there; no node while none is begun."""

    x: Tensor
    t: Tensor
    first: History


@dataclass(frozen=True)
class DPMppPairs(Sampler[Pair]):
    """Second order over each pair of steps; one call a step."""

    def start(self, x: State) -> Pair:
        x = tensor(x)
        return Pair(x, torch.ones(x.shape[0], dtype=torch.float64, device=x.device), History.empty(x, 1))

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: Pair, rng: Streams
    ) -> tuple[State, Pair]:
        process, x = gaussian(process, "DPM-Solver++ 2S"), tensor(x)
        schedule = process.schedule
        x0, l_t = mean(denoise(x, t)), half_log_snr(schedule, t)
        l_a, x0_a = state.first.nodes[:, 0], state.first.values[:, 0]
        second = l_a.isfinite() & (s > 0)
        euler = process.bridge(x, x0, t, s, 0.0, rng)
        h = torch.where(second, half_log_snr(schedule, s) - l_a, 1.0)
        share = torch.where(second, h / (2 * (l_t - l_a)), 0.0)  # 1 / (2 r)
        from_a = advance(process, state.x, state.t, s, [half_log_snr(schedule, state.t)], [torch.lerp(x0_a, x0, expand(share, x))])
        x_s = torch.where(expand(second, x).bool(), from_a, euler)
        # a row that has made its second step, or its last, has no pair begun
        begun = History(torch.where(l_a.isfinite(), -torch.inf, l_t)[:, None], x0[:, None])
        return x_s, Pair(x, t, begun)

    def calls(self, steps: int) -> int:
        return steps

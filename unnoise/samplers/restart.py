"""Restart: Xu et al. 2023 (2306.14878), algorithm 1: on the way down, `repeats` times up again by noise and down once more.

The noise contracts the errors gathered so far, while the deterministic walk keeps few steps enough. `low` and `high` are the
paper's t_min and t_max, noise-to-signal ratios sigma / alpha. The loop `sample` only ever walks down, so the excursion happens
inside the step that first reaches a ratio of at most `low`, and that step's end stands for t_min.
"""

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import tensor
from unnoise.core.random import Streams
from unnoise.core.state import State, expand
from unnoise.samplers.loop import S, Sampler
from unnoise.samplers.renoise import noise_ratio, renoise, time_of_ratio


@dataclass(frozen=True)
class Restart(Sampler[S]):
    """Restart around any sampler. The way down from `high` is `steps` steps of it, spaced after Karras (rho = 7)."""

    sampler: Sampler[S]
    low: float = 0.06
    high: float = 0.3
    repeats: int = 2
    steps: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise InputError(f"restart: low {self.low} and high {self.high} must be noise-to-signal ratios with 0 < low < high")
        if self.repeats < 1 or self.steps < 1:
            raise InputError(f"restart: repeats {self.repeats} and steps {self.steps} must be 1 or more")

    def start(self, x: State) -> S:
        return self.sampler.start(x)

    def step(self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: S, rng: Streams) -> tuple[State, S]:
        process = gaussian(process, "restart")
        schedule = process.schedule
        x, state = self.sampler.step(denoise, process, x, t, s, state, rng)
        crosses = (noise_ratio(schedule, t) > self.low) & (noise_ratio(schedule, s) <= self.low)
        if not bool(crosses.any()):
            return x, state
        again = tensor(x)
        # rows that do not cross keep the others company on a way that is legal for them, and are put back at the end
        bottom = torch.where(crosses, s, time_of_ratio(schedule, torch.full_like(s, self.low)))
        times = self._way_down(process, bottom)
        for k in range(self.repeats):
            inside = rng.scoped(f"restart/{k}/")
            z = inside.normal("up", again.shape[1:], device=again.device)
            down: State = renoise(process, again, bottom, times[0], z)
            memory = self.sampler.start(down)
            for i in range(self.steps):
                here = inside.scoped(f"{i}/")
                down, memory = self.sampler.step(denoise, process, down, times[i], times[i + 1], memory, here)
            again = tensor(down)
        return torch.where(expand(crosses, again).bool(), again, tensor(x)), _choose(crosses, memory, state)

    def _way_down(self, process: Process, bottom: Tensor) -> list[Tensor]:
        """steps + 1 times (B,) from `high` to `bottom`, equally spaced in (sigma / alpha)^(1/7)."""
        schedule = gaussian(process, "restart").schedule
        top = torch.full_like(bottom, self.high) ** (1 / 7)
        end = noise_ratio(schedule, bottom) ** (1 / 7)
        middle = [time_of_ratio(schedule, (top + i / self.steps * (end - top)) ** 7) for i in range(self.steps)]
        return [*middle, bottom]

    def calls(self, steps: int) -> int:
        """For times that have one with 0 < sigma / alpha <= low; coarser times make fewer calls with some samplers (Heun)."""
        inner = self.sampler.calls(self.steps + 1) - self.sampler.calls(1)  # `steps` steps that do not end at 0
        return self.sampler.calls(steps) + self.repeats * inner


def _choose(rows: Tensor, a: Any, b: Any) -> Any:
    """Row by row, a sampler's memory a where `rows` (B,) is true, else b: a tensor, a dataclass of such, or None."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.where(rows.reshape(-1, *([1] * (a.ndim - 1))), a, b)
    if is_dataclass(a) and not isinstance(a, type):
        return replace(a, **{f.name: _choose(rows, getattr(a, f.name), getattr(b, f.name)) for f in fields(a)})
    return a

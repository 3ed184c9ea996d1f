"""Strategic stochastic sampling of trajectory consistency models: Zheng et al. 2024 (TCD, 2402.19159), algorithm 4.

On the way from t to s, deterministically to s' < s, then back up by noise:
    x_s' = DDIM(x_t -> s'),   x_s ~ q(x_s | x_s')
s' is timestep floor((1 - gamma) k) where s is timestep k of `trained`: gamma = 0 is DDIM, gamma = 1 nearly LCM.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.samplers.loop import Sampler
from unnoise.samplers.renoise import renoise


@dataclass(frozen=True)
class TCD(Sampler[None]):
    """One call a step. gamma in [0, 1]: how far noise takes back; the paper and diffusers call it gamma and eta."""

    gamma: float = 0.3
    trained: int = 1000

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise InputError(f"TCD gamma {self.gamma} must lie in [0, 1]: 0 adds no noise, 1 makes every step start afresh")

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        process, x = gaussian(process, "TCD"), tensor(x)
        timestep = s * self.trained - 1
        below = ((timestep * (1 - self.gamma) + 1e-6).floor() + 1) / self.trained
        below = torch.minimum(below.clamp(min=0), s)
        x_below = process.bridge(x, mean(denoise(x, t)), t, below, 0.0, rng)
        z = rng.normal("tcd", x.shape[1:], device=x.device)
        return renoise(process, x_below, below, s, z), None

    def calls(self, steps: int) -> int:
        return steps

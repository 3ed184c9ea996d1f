"""DDPM and DDIM: the process's own bridge, from x_t towards what the denoiser says about x_0.

eta = 1 is ancestral sampling (Ho et al. 2020, 2006.11239, algorithm 2, with the posterior variance); eta = 0 is DDIM (Song et al.
2020, 2010.02502, eq. 12), for a Gaussian process an exponential-Euler step of the probability-flow ODE. Works for every process.
"""

from dataclasses import dataclass

from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.processes import Process
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.samplers.loop import Sampler


@dataclass(frozen=True)
class Ancestral(Sampler[None]):
    eta: float = 1.0

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        return process.back(x, denoise(x, t), t, s, self.eta, rng), None

    def calls(self, steps: int) -> int:
        return steps

"""Euler's method for the probability-flow ODE.

In xhat = x / alpha against sigma_hat = sigma / alpha the ODE reads d xhat / d sigma_hat = eps(x, t) (Karras et al. 2022,
2206.00364, eq. 4), and one Euler step is x_s = alpha_s x0 + sigma_s eps. Written so, it needs no division by alpha: it starts
exactly at alpha(1) = 0 and lands exactly on x0 at sigma(0) = 0. For a rectified flow it is Euler along the velocity. It is
also DDIM, `Ancestral(eta=0)`.
"""

from dataclasses import dataclass

from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.processes import Process, gaussian
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.samplers.loop import Sampler


@dataclass(frozen=True)
class Euler(Sampler[None]):
    """First order; one call a step."""

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        return gaussian(process, "Euler").back(x, denoise(x, t), t, s, 0.0, rng), None

    def calls(self, steps: int) -> int:
        return steps

"""Multistep consistency sampling: Song et al. 2023 (2303.01469), algorithm 1; Luo et al. 2023 (LCM, 2310.04378), algorithm 2.

The network of a consistency model says x_0 in one call. Each further call starts from that x_0 with fresh noise:
    x_s = alpha_s x0(x_t, t) + sigma_s z.
The boundary c_skip x_t + c_out x0 that a latent consistency model is trained with differs from x0 by less than 1e-5 from the
twentieth timestep on and is left out.
"""

from dataclasses import dataclass

from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.samplers.loop import Sampler


@dataclass(frozen=True)
class LCM(Sampler[None]):
    """One call a step; for models distilled into consistency models, in 1 to 8 steps."""

    def start(self, x: State) -> None:
        return None

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: None, rng: Streams
    ) -> tuple[State, None]:
        process, x = gaussian(process, "LCM"), tensor(x)
        z = rng.normal("lcm", x.shape[1:], device=x.device).to(x.dtype)
        return process.mix(mean(denoise(x, t)), z, s), None

    def calls(self, steps: int) -> int:
        return steps

"""UniPC: Zhao et al. 2023 (2302.04867), algorithms 1 and 2, in data prediction.

The predictor UniP-p integrates the polynomial through the last p predictions (exponential.py). Once x0 is known at the predicted
point, the corrector UniC-p repeats the last step with that prediction as one more node, at no extra call: the prediction made at
the uncorrected point is kept (PEC mode). The corrector raises UniP-p's order p by one (theorem 3.1). Here `order` is the order of
convergence of the whole, as for every solver: 3 is UniP-2 with UniC-2, diffusers' solver_order = 2.

The paper solves R a B(h) = phi for the weights a, with a free function B(h), B_1 = h or B_2 = e^h - 1. B divides out whenever the
system is solved; it matters only in the paper's shortcut a = 1/2 for one unknown, of the same order. Here the weights are the
solution, unless `shortcut` asks for 1/2 with B_2, which makes UniP-2 the predictor of DPM-Solver++ 2M.
"""

from dataclasses import dataclass

from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State, expand, times_like
from unnoise.samplers.exponential import History, advance, half_log_snr
from unnoise.samplers.loop import Sampler


@dataclass(frozen=True)
class UniPCState:
    """The point that the last step left from, x (B, ...) at time t (B,), and the last predictions."""

    x: Tensor
    t: Tensor
    past: History


@dataclass(frozen=True)
class UniPC(Sampler[UniPCState]):
    """UniPC of order 2 to 4 (p = order - 1): one call a step. shortcut: weights 1/2 for one unknown, as the authors' code has."""

    order: int = 3
    shortcut: bool = False

    def __post_init__(self) -> None:
        if self.order not in (2, 3, 4):
            raise InputError(f"UniPC order {self.order} must be 2, 3 or 4")

    def start(self, x: State) -> UniPCState:
        x = tensor(x)
        return UniPCState(x, times_like(1.0, x), History.empty(x, self.order - 1))

    def step(
        self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: UniPCState, rng: Streams
    ) -> tuple[State, UniPCState]:
        process, x = gaussian(process, "UniPC"), tensor(x)
        x0, l_t = mean(denoise(x, t)), half_log_snr(process.schedule, t)
        nodes, values = list(state.past.nodes.unbind(1)), list(state.past.values.unbind(1))
        has_past = nodes[0].isfinite()
        corrected = advance(
            process, state.x, state.t, t, [nodes[0], l_t, *nodes[1:]], [values[0], x0, *values[1:]], self.shortcut
        )  # row by row nonsense, yet finite or not used, where there is no past
        x = corrected.where(expand(has_past, x).bool(), x)
        k = self.order - 2
        x_s = advance(process, x, t, s, [l_t, *nodes[:k]], [x0, *values[:k]], self.shortcut)
        return x_s, UniPCState(x, t, state.past.push(l_t, x0))

    def calls(self, steps: int) -> int:
        return steps

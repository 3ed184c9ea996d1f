"""Denoisers: a network plus its preconditioning, tied to a process."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from unnoise.core.preconditioning import Preconditioner
from unnoise.core.predictions import Prediction
from unnoise.core.processes import Process
from unnoise.core.state import Cond, State

Denoise = Callable[[State, Tensor], Prediction]
"""A denoiser with its condition bound and guidance applied: (x_t, t (B,)) -> Prediction."""

FlowMap = Callable[[State, Tensor, Tensor], State]
"""(x_t, t, s) -> x_s: consistency, MeanFlow and shortcut models."""


class Denoiser(nn.Module, ABC):
    """Says what it believes about x_0, given x_t."""

    process: Process

    @abstractmethod
    def forward(self, x_t: State, t: Tensor, cond: Cond) -> Prediction:
        """x_t (B, ...), t (B,) float64 in [0, 1], cond with B rows -> Prediction with B rows."""


class NetworkDenoiser(Denoiser):
    """Any network: `network(inputs, noise_level (B,), cond)` with the inputs and outputs that the preconditioner speaks of."""

    def __init__(self, network: nn.Module, process: Process, preconditioner: Preconditioner) -> None:
        super().__init__()
        preconditioner.check(process)
        self.network, self.process, self.preconditioner = network, process, preconditioner

    def forward(self, x_t: State, t: Tensor, cond: Cond) -> Prediction:
        inputs, noise_level = self.preconditioner.before(self.process, x_t, t)
        return self.preconditioner.after(self.process, self.network(inputs, noise_level, cond), x_t, t)

"""Denoisers: a network plus its preconditioning, tied to a process; and the middle head of such a network."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from unnoise.core.errors import InputError
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
        how = self.preconditioner.told(cond)
        inputs, noise_level = how.before(self.process, x_t, t)
        return how.after(self.process, self.network(inputs, noise_level, cond), x_t, t)

    def both(self, x_t: State, t: Tensor, cond: Cond) -> tuple[Prediction, Prediction]:
        """What `forward` says, and what the network's middle head says, in one call.

        Raises InputError for a network that has no such head.
        """
        network, how = _two_headed(self.network), self.preconditioner.told(cond)
        inputs, noise_level = how.before(self.process, x_t, t)
        out, middle = network.both(inputs, noise_level, cond)
        return how.after(self.process, out, x_t, t), how.after(self.process, middle, x_t, t)


@runtime_checkable
class TwoHeaded(Protocol):
    """A network that, asked for `both`, also gives what it believes halfway; `has_middle` says whether it was built to."""

    @property
    def has_middle(self) -> bool: ...

    def both(self, x: State, noise_level: Tensor, cond: Cond) -> tuple[State, State]: ...


class MiddleDenoiser(Denoiser):
    """What the middle head of a denoiser's network says: a weaker denoiser that shares its weights."""

    def __init__(self, denoiser: NetworkDenoiser) -> None:
        super().__init__()
        self.process, self.denoiser = denoiser.process, denoiser

    def forward(self, x_t: State, t: Tensor, cond: Cond) -> Prediction:
        return self.denoiser.both(x_t, t, cond)[1]


def two_headed(denoiser: Denoiser) -> NetworkDenoiser:
    """The denoiser itself, known to have a middle head. Raises InputError for one that has none."""
    if not isinstance(denoiser, NetworkDenoiser):
        raise InputError(f"a {type(denoiser).__name__} has no network, and so no middle head")
    _two_headed(denoiser.network)
    return denoiser


def _two_headed(network: nn.Module) -> TwoHeaded:
    if isinstance(network, TwoHeaded) and network.has_middle:
        return network
    raise InputError(
        f"this {type(network).__name__} has no middle head; internal guidance needs a network trained with one (head_at)"
    )


def middle(denoiser: Denoiser) -> Denoiser:
    """The denoiser that the middle head is (2512.24176). Raises InputError where there is none."""
    return MiddleDenoiser(two_headed(denoiser))

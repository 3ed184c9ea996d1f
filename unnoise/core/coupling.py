"""Which noise meets which data in a training batch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import tensor
from unnoise.core.random import Streams
from unnoise.core.state import State


class Coupling(ABC):
    """A frozen dataclass."""

    @abstractmethod
    def corrupt(self, process: Process, x: State, t: Tensor, rng: Streams) -> State:
        """x_t (B, ...) for data x (B, ...) at times t (B,)."""


@dataclass(frozen=True)
class Independent(Coupling):
    """Every sample has its own noise: the process as it is."""

    def corrupt(self, process: Process, x: State, t: Tensor, rng: Streams) -> State:
        return process.corrupt(x, t, rng).x_t


@dataclass(frozen=True)
class OptimalTransport(Coupling):
    """The batch's noise is dealt out so that the sum of |x - noise|^2 over pairs is smallest: straighter paths.

    Pooladian et al. 2023 (2304.14772); Tong et al. 2023 (2302.00482). Exact, by linear assignment, O(B^3): at B = 256 a few
    milliseconds. Data and its condition stay together, only noise moves; so with a condition the noise comes to depend on it a
    little, less the larger the batch. The pairs depend on the (local) batch: this is the one place where a training sample's
    noise is not its own. Gaussian processes only; needs `pip install "unnoise[transport]"`.
    """

    def corrupt(self, process: Process, x: State, t: Tensor, rng: Streams) -> Tensor:
        process, x = gaussian(process, "OptimalTransport"), tensor(x)
        noise = rng.normal("noise", x.shape[1:], device=x.device).to(x.dtype)
        return process.mix(x, noise[assignment(x, noise)], t)


def assignment(x: Tensor, y: Tensor) -> Tensor:
    """The permutation p (B,) for which sum_i |x_i - y_p(i)|^2 is smallest."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as e:
        raise InputError('OptimalTransport needs scipy: pip install "unnoise[transport]"') from e
    cost = torch.cdist(x.flatten(1).double(), y.flatten(1).double()) ** 2
    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=x.device)

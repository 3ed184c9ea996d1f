"""What every process can do."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.predictions import Prediction
from unnoise.core.random import Streams
from unnoise.core.state import Shape, State


@dataclass(frozen=True)
class Corrupted:
    """x_t and the noise that was drawn for it, both shaped like the data."""

    x_t: State
    noise: State


class Process(ABC):
    """How one kind of data is destroyed over t in [0, 1]; a frozen dataclass. Times are (B,) float64, 0 data, 1 noise."""

    @abstractmethod
    def prior(self, shape: Shape, rng: Streams, device: torch.device | str = "cpu") -> State:
        """Pure noise x_1 for samples of this shape (without the batch axis): (B, *shape)."""

    @abstractmethod
    def corrupt(self, x: State, t: Tensor, rng: Streams) -> Corrupted:
        """x_t ~ q(x_t | x_0 = x)."""

    @abstractmethod
    def bridge(self, x_t: State, x_0: State, t: Tensor, s: Tensor, eta: float, rng: Streams) -> State:
        """x_s for s < t given both ends. For every eta, x_t ~ q(.|x_0) becomes x_s ~ q(.|x_0).

        eta = 1 draws from the Markov chain's q(x_s | x_t, x_0) (ancestral), eta = 0 adds the least noise that the process allows.
        """

    @abstractmethod
    def back(self, x_t: State, said: Prediction, t: Tensor, s: Tensor, eta: float, rng: Streams) -> State:
        """x_s given what a denoiser says about x_0: the bridge to its mean, to a draw from it, or along its tangent."""

"""What every autoencoder of pictures can do, ours (`autoencoder`) and those of open checkpoints (`kl_autoencoder` and others)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class PictureAutoencoderConfig(ABC):
    """A frozen dataclass. channels: of the picture, which comes and goes in -1 ... 1."""

    channels: int

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Of the code."""

    @property
    @abstractmethod
    def factor(self) -> int:
        """Pixels along a side for one code."""

    @property
    @abstractmethod
    def reach(self) -> int | None:
        """Pixels to each side, at most, that a code or a pixel of the decoded picture depends on. None: on the whole picture, by
        attention or a norm over all positions, so that a tile is not what the whole would give.
        """

    @abstractmethod
    def build(self) -> "PictureAutoencoder": ...


class PictureAutoencoder(nn.Module, ABC):
    """Pictures (B, C, H, W) in -1 ... 1, H and W divisible by the factor <-> codes (B, c, H / factor, W / factor)."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The code itself, without noise."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, C, h factor, w factor), not clamped."""

    @abstractmethod
    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), both of the code's shape; the deviation is 0 where a code is one point."""


def refuse_uneven(x: Tensor, factor: int) -> None:
    """ValueError for pictures (B, C, H, W) whose sides the factor does not divide."""
    if x.shape[-2] % factor or x.shape[-1] % factor:
        raise ValueError(f"pictures of {x.shape[-2]} x {x.shape[-1]}: both sides must be divisible by {factor}; pad them")


def channels_last(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, C, H, W) in the dtype of the weights, in the order of memory that convolutions are fastest in."""
    return x.to(weight.dtype, memory_format=torch.channels_last)

"""A network for pictures on blocks of pixels: patch x patch pixels become the channels of one (Shi et al. 2016, 1609.05158).

Its outer layers then cost 1 / patch^2 of what they did, and nothing is lost: fine detail travels in channels. Hoogeboom et al. 2023
(2301.11093, section 3.2) use it for large pictures; on a processor it pays at 64 x 64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from unnoise.networks import unet
from unnoise.networks.layers import pad_to_multiple
from unnoise.networks.unet import UNetConfig


@dataclass(frozen=True)
class PatchedConfig:
    """network: its `channels` (and `picture_channels`) are those of the picture times patch^2."""

    network: UNetConfig
    patch: int = 2

    def __post_init__(self) -> None:
        if self.patch < 1 or self.network.channels % self.patch**2 or self.network.picture_channels % self.patch**2:
            raise ValueError(
                f"{self.network.channels} channels, {self.network.picture_channels} of a picture: not of {self.patch}^2 pixels"
            )

    def build(self) -> "Patched":
        return Patched(self)


class Patched(nn.Module):
    """Set `checkpointing` of the inner network to trade time for memory in training."""

    def __init__(self, config: PatchedConfig) -> None:
        super().__init__()
        self.config = config
        self.network = config.network.build()

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W), noise_level (B,), cond: as the inner network, `picture` (B, picture_channels / patch^2, H, W) -> as x."""
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> "Entered":
        """Arguments as forward's."""
        p = self.config.patch
        told = dict(cond)
        if "picture" in told:
            told["picture"] = pixel_unshuffle(pad_to_multiple(told["picture"], p), p)
        return Entered(self.network.enter(pixel_unshuffle(pad_to_multiple(x, p), p), noise_level, told), x.shape[-2], x.shape[-1])

    def deep(self, entered: "Entered") -> Tensor:
        return self.network.deep(entered.blocks)

    def leave(self, entered: "Entered", deep: Tensor) -> Tensor:
        return pixel_shuffle(self.network.leave(entered.blocks, deep), self.config.patch)[..., : entered.height, : entered.width]


class Entered(NamedTuple):
    """What the inner network knows of the blocks of pixels, and the size of the picture in pixels."""

    blocks: unet.Entered
    height: int
    width: int

    @property
    def base(self) -> None:
        return self.blocks.base

"""A network that says only what is to be added to the picture it is told: for pictures that need little but detail.

    F(x, noise level, cond) = picture + G(x, noise level, cond)       (residual learning, Kim et al. 2016, 1511.04587, section 3.1)
With `preconditioning.Data` F is the denoised picture itself, so G starts from the enlarged small picture, not from nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.networks.unet import UNetConfig


@dataclass(frozen=True)
class OntoPictureConfig:
    """network: with picture_channels of at least its own channels."""

    network: DiffusionTransformerConfig | UNetConfig

    def __post_init__(self) -> None:
        if self.network.picture_channels < self.network.channels:
            raise ValueError(f"a network told {self.network.picture_channels} channels cannot add to {self.network.channels}")

    def build(self) -> "OntoPicture":
        return OntoPicture(self)


class OntoPicture(nn.Module):
    """x (B, C, H, W), noise_level (B,), cond as G's; without a `picture` G is all there is."""

    def __init__(self, config: OntoPictureConfig) -> None:
        super().__init__()
        self.config = config
        self.network = config.network.build()

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        out = self.network(x, noise_level, cond)
        return out + cond["picture"][:, : out.shape[1]].to(out.dtype) if "picture" in cond else out

"""Tiny autoencoders distilled from those of open checkpoints: TAESD, TAESDXL, TAESD3, TAEF1 (Boer Bohan 2023, madebyollin/taesd).

    block    relu(x + W3 relu(W2 relu(W1 x)))    convolutions of 3 x 3; nothing is normalised
    encoder  a convolution, blocks; then per level a convolution of stride 2 and blocks; a convolution to the code
    decoder  3 tanh(z / 3), a convolution, relu; per level blocks, every pixel doubled, a convolution
Their codes are the states of the diffusion model itself, without any scale or shift. A number depends on its surroundings alone:
tiles are exactly the whole.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from unnoise.networks.doubling import Doubling
from unnoise.networks.layers import wide
from unnoise.networks.picture_autoencoder import PictureAutoencoder, PictureAutoencoderConfig, channels_last, refuse_uneven


@dataclass(frozen=True)
class TinyAutoencoderConfig(PictureAutoencoderConfig):
    """width: channels of all levels. encoder, decoder: blocks of every level, each in the order they are run."""

    channels: int = 3
    latent_channels: int = 4
    width: int = 64
    encoder: tuple[int, ...] = (1, 3, 3, 3)
    decoder: tuple[int, ...] = (3, 3, 3, 1)

    def __post_init__(self) -> None:
        if min(self.channels, self.latent_channels, self.width) < 1 or not self.encoder or min(self.encoder + self.decoder) < 0:
            raise ValueError(f"{self}: at least one level, and positive numbers are meant")
        if len(self.encoder) != len(self.decoder):
            raise ValueError(f"{len(self.encoder)} levels of the encoder and {len(self.decoder)} of the decoder: as many each")

    @property
    def factor(self) -> int:
        return 2 ** (len(self.encoder) - 1)

    @property
    def reach(self) -> int:
        """Three convolutions a block and one a level, each of one pixel of its level; and the first or the last one of all."""
        encoder = sum((3 * n + 1) * 2**i for i, n in enumerate(self.encoder)) + self.factor
        decoder = sum((3 * n + 1) * 2**i for i, n in enumerate(reversed(self.decoder))) + self.factor
        return max(encoder, decoder) + self.factor

    def build(self) -> "TinyAutoencoder":
        return TinyAutoencoder(self)


def _convolution(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(_convolution(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.convolutions
        return relu(x + c(relu(b(relu(a(x))))))


class TinyAutoencoder(PictureAutoencoder):
    """Works in the dtype of its weights, channels last; gives float32 at least."""

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        w = config.width
        encoder: list[nn.Module] = []
        for i, blocks in enumerate(config.encoder):
            encoder.append(_convolution(w, w, stride=2, bias=False) if i else _convolution(config.channels, w))
            encoder += [Block(w) for _ in range(blocks)]
        self.encoder = nn.Sequential(*encoder, _convolution(w, config.latent_channels))
        decoder: list[nn.Module] = [_convolution(config.latent_channels, w), nn.ReLU()]
        for i, blocks in enumerate(config.decoder):
            decoder += [nn.Identity(), Doubling(w, w, bias=False)] if i else []  # theirs has two layers there, and numbers them
            decoder += [Block(w) for _ in range(blocks)]
        self.decoder = nn.Sequential(*decoder, _convolution(w, config.channels))

    def encode(self, x: Tensor) -> Tensor:
        refuse_uneven(x, self.config.factor)
        z = self.encoder(channels_last((x + 1) / 2, self._weight()))
        return z.to(wide(z))

    def decode(self, z: Tensor) -> Tensor:
        x = self.decoder(channels_last(3 * torch.tanh(z / 3), self._weight()))
        return x.to(wide(x)) * 2 - 1

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(x)
        return z, torch.zeros_like(z)

    def _weight(self) -> Tensor:
        return next(self.parameters())

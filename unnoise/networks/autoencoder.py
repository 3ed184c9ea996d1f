"""Autoencoders of pictures, convolutional throughout: any size that the factor divides, one code for every factor x factor pixels.

Patches (pixel unshuffle), then levels of residual blocks, between which the sides halve; the decoder is the mirror image.

    resampling    plain: a convolution before or after the (un)shuffle of 2 x 2 pixels into channels, as in Rombach et al. 2022
                  (2112.10752); or deep compression: the same plus a shortcut without parameters, so that the convolution learns
                  only what that misses, from zero on (DC-AE, Chen et al. 2024, 2410.10733, section 3.2):
                      down  unshuffle(convolution(x)) + mean over groups of channels(unshuffle(x))
                      up    shuffle(convolution(x)) + shuffle(repeated channels(x))
                  with which 16 and 32 times smaller sides are learned as well as 8
    blocks        without normalisation (see `resnet`): fast on processors, and a pixel depends on its surroundings alone, so tiles
                  of a large picture are exactly what the whole would give; or with group normalisation, as is usual
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from unnoise.networks.bottlenecks import BottleneckConfig, Code, KLConfig
from unnoise.networks.layers import zeroed
from unnoise.networks.norm import GroupNorm
from unnoise.networks.picture_autoencoder import PictureAutoencoder, PictureAutoencoderConfig, refuse_uneven
from unnoise.networks.resnet import Residual, act, convolution


class Blocks(ABC):
    """Which residual blocks: a frozen dataclass."""

    @abstractmethod
    def block(self, channels: int) -> nn.Module:
        """(B, C, H, W) -> the same shape; at first the identity."""


@dataclass(frozen=True)
class Unnormalised(Blocks):
    def block(self, channels: int) -> nn.Module:
        return Residual(channels)


@dataclass(frozen=True)
class Normalised(Blocks):
    """At most `groups` groups."""

    groups: int = 32

    def block(self, channels: int) -> nn.Module:
        return NormalisedResidual(channels, channels, math.gcd(self.groups, channels))


def silu_over(x: Tensor) -> Tensor:
    """silu(x), written over x, which nothing else may use, where no derivative needs it: a third less memory in a large picture."""
    return silu(x, inplace=not torch.is_grad_enabled())


class NormalisedResidual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), x through a 1 x 1 convolution where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.first_norm, self.second_norm = GroupNorm(groups, inputs, eps), GroupNorm(groups, outputs, eps)
        self.first, self.second = convolution(inputs, outputs), zeroed(convolution(outputs, outputs))
        self.skip = convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(silu_over(self.second_norm(self.first(silu_over(self.first_norm(x))))))
        return self.skip(x) + h  # the skip last: it would lie in memory all the while


class Resampling(ABC):
    """How a level becomes the next: a frozen dataclass."""

    @abstractmethod
    def down(self, inputs: int, outputs: int) -> nn.Module:
        """(B, inputs, H, W) -> (B, outputs, H / 2, W / 2)"""

    @abstractmethod
    def up(self, inputs: int, outputs: int) -> nn.Module:
        """(B, inputs, H, W) -> (B, outputs, 2 H, 2 W)"""


@dataclass(frozen=True)
class Plain(Resampling):
    def down(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.PixelUnshuffle(2), convolution(4 * inputs, outputs, 1))

    def up(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(convolution(inputs, 4 * outputs, 1), nn.PixelShuffle(2))


@dataclass(frozen=True)
class DeepCompression(Resampling):
    def down(self, inputs: int, outputs: int) -> nn.Module:
        if outputs % 4 or 4 * inputs % outputs:
            raise ValueError(f"{inputs} channels halved into {outputs}: a multiple of 4 that divides {4 * inputs} is needed")
        return ShortcutDown(inputs, outputs)

    def up(self, inputs: int, outputs: int) -> nn.Module:
        if 4 * outputs % inputs:
            raise ValueError(f"{inputs} channels doubled into {outputs}: {4 * outputs} must be divisible by {inputs}")
        return ShortcutUp(inputs, outputs)


class ShortcutDown(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution, self.outputs = zeroed(convolution(inputs, outputs // 4)), outputs

    def forward(self, x: Tensor) -> Tensor:
        return pixel_unshuffle(self.convolution(x), 2) + averaged(pixel_unshuffle(x, 2), self.outputs)


class ShortcutUp(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution, self.outputs = zeroed(convolution(inputs, 4 * outputs)), outputs

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle(self.convolution(x) + repeated(x, 4 * self.outputs), 2)


def averaged(x: Tensor, channels: int) -> Tensor:
    """Means over equal groups of neighbouring channels: (B, C, H, W) -> (B, channels, H, W)."""
    return x.unflatten(1, (channels, -1)).mean(2)


def repeated(x: Tensor, channels: int) -> Tensor:
    """Every channel as often as is needed: (B, C, H, W) -> (B, channels, H, W)."""
    return x.repeat_interleave(channels // x.shape[1], 1)


@dataclass(frozen=True)
class AutoencoderConfig(PictureAutoencoderConfig):
    """channels: of the picture. patch: side of a patch in pixels; widths: channels of every level, finest first; blocks: residual
    blocks of every level, in encoder and decoder each.
    """

    channels: int
    bottleneck: BottleneckConfig = KLConfig()
    patch: int = 2
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: tuple[int, ...] = (2, 2, 2)
    resampling: Resampling = DeepCompression()
    kind: Blocks = Unnormalised()

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.blocks):
            raise ValueError(f"{len(self.widths)} widths and {len(self.blocks)} numbers of blocks: one each for every level")
        if self.patch < 1 or min(self.widths) < 1 or min(self.blocks) < 0:
            raise ValueError(f"patch {self.patch}, widths {self.widths}, blocks {self.blocks}: positive numbers are meant")

    @property
    def latent_channels(self) -> int:
        return self.bottleneck.latent_channels

    @property
    def factor(self) -> int:
        return self.patch * 2 ** (len(self.widths) - 1)

    @property
    def reach(self) -> int:
        """Without normalisation; group normalisation makes tiles differ a little, and is faded over."""
        sides = [self.patch * 2**i for i in range(len(self.widths))]
        blocks = sum(2 * n * side for n, side in zip(self.blocks, sides))  # two convolutions of reach 1 each
        return blocks + 2 * sum(sides) + 2 * self.factor  # the changes of level, the first and the last convolution

    def build(self) -> "Autoencoder":
        return Autoencoder(self)


def deep_compression(channels: int, factor: int, bottleneck: BottleneckConfig, width: int = 64) -> AutoencoderConfig:
    """An autoencoder for sides `factor` times smaller (4, 8, 16, 32 ...); `width` channels at first, at most 4 times as many."""
    levels = factor.bit_length() - 1
    if factor < 2 or factor != 2**levels:
        raise ValueError(f"factor {factor}: a power of two, from 2 on")
    widths = tuple(width * 2 ** min(i, 2) for i in range(levels))
    return AutoencoderConfig(channels, bottleneck, 2, widths, (2,) * levels)


class Autoencoder(PictureAutoencoder):
    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config, self.bottleneck = config, config.bottleneck.build()
        w, n = config.widths, config.blocks
        pixels = config.channels * config.patch**2
        make: Callable[[int], nn.Module] = config.kind.block
        self.stem = convolution(pixels, w[0])
        self.down = nn.ModuleList(config.resampling.down(a, b) for a, b in pairwise(w))
        self.encoder = nn.ModuleList(nn.Sequential(*(make(c) for _ in range(k))) for c, k in zip(w, n))
        self.narrow = convolution(w[-1], self.bottleneck.inputs)
        self.widen = convolution(self.bottleneck.channels, w[-1])
        self.decoder = nn.ModuleList(nn.Sequential(*(make(c) for _ in range(k))) for c, k in zip(w, n))
        self.up = nn.ModuleList(config.resampling.up(b, a) for a, b in pairwise(w))
        self.out = convolution(w[0], pixels)
        with torch.no_grad():  # codes and pictures of about unit size from the first step on
            for layer in (self.narrow, self.out):
                layer.weight.mul_(0.3)

    def encode(self, x: Tensor) -> Tensor:
        """The code itself, (B, c, h, w), float32 at least."""
        return self.bottleneck.latent(self.features(x))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.bottleneck.posterior(self.features(x))

    def decode(self, z: Tensor) -> Tensor:
        """Any z (B, c, h, w) is taken for the nearest code."""
        return self.picture(self.bottleneck.snapped(z))

    def code(self, x: Tensor, noise: Tensor) -> Code:
        """For training: codes as they are passed on, and their loss; noise: standard normal, of the code's shape."""
        return self.bottleneck(self.features(x), noise)

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Code]:
        """Reconstructions and what they were made from, for training."""
        code = self.code(x, noise)
        return self.picture(code.z), code

    def features(self, x: Tensor) -> Tensor:
        """What the bottleneck is given: (B, inputs, H / factor, W / factor)."""
        refuse_uneven(x, self.config.factor)
        h = self.stem(pixel_unshuffle(x.to(self.stem.weight.dtype), self.config.patch))
        for i, level in enumerate(self.encoder):
            h = level(self.down[i - 1](h) if i else h)
        return self.narrow(act(h))

    def picture(self, z: Tensor) -> Tensor:
        """What the decoder makes of z as it is, (B, C, H, W)."""
        h = self.widen(z.to(self.widen.weight.dtype))
        for i in reversed(range(len(self.decoder))):
            h = self.decoder[i](h)
            if i:
                h = self.up[i - 1](h)
        return pixel_shuffle(self.out(act(h)), self.config.patch)

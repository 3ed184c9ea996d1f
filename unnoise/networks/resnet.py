"""Convolutional trunks for pictures of any size, without any normalisation over the batch: what GANs and autoencoders are made of.

Both work on patches, a map of at most 16 x 16 of them (as transformers do: a few channels over many pixels are slow).
Down: the map is halved (rounded up) until its longer side is at most `floor`, with residual blocks on every level:

    x <- x + W2 act(W1 act(x))    W2 = 0 at first, as in Fixup (Zhang et al. 2019, 1901.09321) and R3GAN (2501.05441, section 3.4)

Up: the way back, every convolution told what to make by its input's gain and offset, as in BigGAN (Brock et al. 2018, 1809.11096)
and adaLN, over features normalised pixel by pixel, so that no sample knows of another:

    x <- x + W2 act(s2 norm(W1 act(s1 norm(x) + b1)) + b2),     (s, b) = linear(code)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pixel_shuffle, pixel_unshuffle

from unnoise.networks.layers import pad_to_multiple, zeroed

SLOPE = 0.2


def act(x: Tensor) -> Tensor:
    return leaky_relu(x, SLOPE)


@dataclass(frozen=True)
class Pyramid:
    """patch: side of a patch in pixels. sizes: of the map of patches on every level, finest first. height, width: in pixels."""

    patch: int
    sizes: tuple[tuple[int, int], ...]
    height: int
    width: int


def pyramid(height: int, width: int, floor: int = 4, least: int = 0) -> Pyramid:
    """Halved until no side is over `floor`, and at least `least` times where that is possible."""
    patch = math.ceil(max(height, width) / 16)
    sizes = [(math.ceil(height / patch), math.ceil(width / patch))]
    while max(sizes[-1]) > floor or (len(sizes) <= least and max(sizes[-1]) > 1):
        sizes.append((math.ceil(sizes[-1][0] / 2), math.ceil(sizes[-1][1] / 2)))
    return Pyramid(patch, tuple(sizes), height, width)


def to_patches(x: Tensor, at: Pyramid) -> Tensor:
    """(B, C, H, W) -> (B, C patch^2, h, w)"""
    return pixel_unshuffle(pad_to_multiple(x, at.patch), at.patch)


def from_patches(x: Tensor, at: Pyramid) -> Tensor:
    return pixel_shuffle(x, at.patch)[..., : at.height, : at.width]


def widths(width: int, levels: int) -> tuple[int, ...]:
    """Channels of each level, finest first: `width` on the coarsest, half of it on the next, a quarter on those before."""
    return tuple(max(1, round(width * 2.0 ** (min(i, 2) - min(levels - 1, 2)))) for i in range(levels))


def convolution(inputs: int, outputs: int, side: int = 3) -> nn.Conv2d:
    """Keeps the size and, before leaky rectifiers, the variance (He et al. 2015, 1502.01852)."""
    layer = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    nn.init.kaiming_normal_(layer.weight, SLOPE)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def shrunk(x: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(x, tuple(size), mode="area")


def grown(x: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = convolution(channels, channels), zeroed(convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(act(self.first(act(x))))


class Down(nn.Module):
    """(B, C, H, W) -> features of the coarsest level (B, widths[-1], h, w)."""

    def __init__(self, channels: int, at: Pyramid, width: int, blocks: int) -> None:
        super().__init__()
        self.at, self.channels = at, widths(width, len(at.sizes))
        self.stem = convolution(channels * at.patch**2, self.channels[0])
        self.levels = nn.ModuleList(nn.Sequential(*(Residual(c) for _ in range(blocks))) for c in self.channels)
        self.changes = nn.ModuleList(convolution(a, b, 1) for a, b in zip(self.channels, self.channels[1:]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(to_patches(x, self.at))
        for i, level in enumerate(self.levels):
            if i:
                x = shrunk(self.changes[i - 1](x), self.at.sizes[i])
            x = level(x)
        return x


def pixel_norm(x: Tensor) -> Tensor:
    """x / rms over its channels, pixel by pixel (Karras et al. 2017, 1710.10196, section 4.2)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6)


class Told(nn.Module):
    """Normalised features under a gain and an offset that follow from the code (or are learned, where there is none)."""

    def __init__(self, channels: int, code_dim: int) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.linear = nn.Linear(code_dim, 2 * channels) if code_dim else None
        if self.linear is not None:
            nn.init.normal_(self.linear.weight, std=0.3 / math.sqrt(code_dim))
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, code: Tensor | None) -> Tensor:
        x = pixel_norm(x)
        gain, offset = self.gain.expand(len(x), -1), self.offset.expand(len(x), -1)
        if self.linear is not None and code is not None:
            scale, shift = self.linear(code).chunk(2, 1)
            gain, offset = gain + scale, offset + shift
        return torch.addcmul(offset[..., None, None], x, gain[..., None, None])


class ToldResidual(nn.Module):
    def __init__(self, channels: int, code_dim: int) -> None:
        super().__init__()
        self.before, self.between = Told(channels, code_dim), Told(channels, code_dim)
        self.first, self.second = convolution(channels, channels), zeroed(convolution(channels, channels))

    def forward(self, x: Tensor, code: Tensor | None) -> Tensor:
        return x + self.second(act(self.between(self.first(act(self.before(x, code))), code)))


class ToldLevel(nn.Module):
    def __init__(self, channels: int, blocks: int, code_dim: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ToldResidual(channels, code_dim) for _ in range(blocks))

    def forward(self, x: Tensor, code: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, code)
        return x


class Up(nn.Module):
    """Features of the coarsest level (B, widths[-1], h, w) and a code (B, code_dim) -> a picture (B, C, H, W)."""

    def __init__(self, channels: int, at: Pyramid, width: int, blocks: int, code_dim: int) -> None:
        super().__init__()
        self.at, self.channels = at, widths(width, len(at.sizes))
        self.levels = nn.ModuleList(ToldLevel(c, blocks, code_dim) for c in self.channels)
        self.changes = nn.ModuleList(convolution(b, a, 1) for a, b in zip(self.channels, self.channels[1:]))
        finest = self.channels[0]
        self.last, self.out = Told(finest, code_dim), convolution(finest, channels * at.patch**2)
        with torch.no_grad():  # small, and the same for all pixels of a patch: no chequered pictures (ICNR, 1707.02937)
            alike = self.out.weight[:: at.patch**2].repeat_interleave(at.patch**2, 0)
            self.out.weight.copy_(0.3 * alike)

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        for i in reversed(range(len(self.levels))):
            x = self.levels[i](x, code)
            if i:
                x = grown(self.changes[i - 1](x), self.at.sizes[i - 1])
        return from_patches(self.out(act(self.last(x, code))), self.at)

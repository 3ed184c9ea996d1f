"""Pictures as a few symbols: an autoencoder with finite scalar quantisation (Mentzer et al. 2023, 2309.15505).

Each of the d numbers of a place is squashed to L_i levels and rounded, the gradient passing straight through (section 3.1):

    f(z) = h tanh(z + arctanh(o / h)) - o,   h = (L - 1)(1 + eps) / 2,   o = 1/2 for even L, else 0;   symbol = round(f(z))

A codebook of prod L_i symbols, none of which can die, and no loss of commitment: a vector quantiser without its tricks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unnoise.networks.gan import PictureShape
from unnoise.networks.resnet import Down, Up, act, convolution, pyramid


class FiniteScalars(nn.Module):
    """(B, d, ...) <-> symbols 0 ... prod L - 1, (B, ...) int64."""

    basis: Tensor
    levels: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels {tuple(levels)}: at least two each")
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)
        self.size = math.prod(levels)

    def forward(self, z: Tensor) -> Tensor:
        """The nearest levels, in -1 ... 1; the gradient is that of the squashing."""
        levels = self.levels[:, *[None] * (z.ndim - 2)]
        half, offset = (levels - 1) * (1 + 1e-3) / 2, 0.5 * (levels % 2 == 0)
        squashed = torch.tanh(z + torch.atanh(offset / half)) * half - offset
        return (squashed + (squashed.round() - squashed).detach()) / (levels // 2)

    def nearest(self, values: Tensor) -> Tensor:
        """Any numbers -> the nearest of the levels, each in -1 ... 1; what is not a number counts as 0."""
        levels = self.levels[:, *[None] * (values.ndim - 2)]
        half = levels // 2
        digits = (values.nan_to_num(nan=0.0) * half).round()
        return torch.minimum(torch.maximum(digits, -half), levels - 1 - half) / half

    def symbols(self, values: Tensor) -> Tensor:
        shape = [None] * (values.ndim - 2)
        digits = (values * (self.levels // 2)[:, *shape]).round().long() + (self.levels // 2)[:, *shape]
        return (digits * self.basis[:, *shape]).sum(1)

    def values(self, symbols: Tensor) -> Tensor:
        shape = [None] * (symbols.ndim - 1)
        digits = symbols[:, None] // self.basis[:, *shape] % self.levels[:, *shape]
        half = (self.levels // 2)[:, *shape]
        return (digits - half).float() / half


@dataclass(frozen=True)
class QuantisedAutoencoderConfig:
    shape: PictureShape
    width: int
    levels: tuple[int, ...] = (8, 6, 5)
    """240 symbols, the paper's recommendation for about 2^8."""
    blocks: int = 1

    def build(self) -> "QuantisedAutoencoder":
        return QuantisedAutoencoder(self)


class QuantisedAutoencoder(nn.Module):
    """A map of symbols of at most 8 x 8, halved at least once."""

    def __init__(self, config: QuantisedAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        at = pyramid(config.shape.height, config.shape.width, floor=8, least=1)
        self.map = at.sizes[-1]
        self.down = Down(config.shape.channels, at, config.width, config.blocks)
        self.narrow = convolution(self.down.channels[-1], len(config.levels), 1)
        self.quantiser = FiniteScalars(config.levels)
        self.widen = convolution(len(config.levels), self.down.channels[-1], 1)
        self.up = Up(config.shape.channels, at, config.width, config.blocks, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.widen(self.quantiser(self.narrow(act(self.down(x))))))

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> symbols (B, h * w) int64, row by row."""
        return self.quantiser.symbols(self.quantiser(self.narrow(act(self.down(x))))).flatten(1)

    def decode(self, symbols: Tensor) -> Tensor:
        return self.up(self.widen(self.quantiser.values(symbols.unflatten(1, self.map))))

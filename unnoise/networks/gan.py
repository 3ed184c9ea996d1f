"""Generators and critics of adversarial networks, for pictures of any size and for rows of numbers.

    ConditionalGenerator  latent and class drive the gain and offset of every layer: BigGAN (Brock et al. 2018, 1809.11096)
    StyleGenerator        a mapping network, convolutions whose input channels the style scales, and pictures that add up over the
                          levels: StyleGAN2 (Karras et al. 2019, 1912.04958). Written w' = s_i w_oik, w'' = w' / sqrt(sum w'^2),
                          which is the same as scaling the input by s and the output by 1 / sqrt(sum_ik w_oik^2 s_i^2)
    PictureCritic         residual, without normalisation (R3GAN, Huang et al. 2025, 2501.05441), told the class by projection
                          (Miyato & Koyama 2018, 1802.05637): D(x, y) = l(f(x)) + <e(y), f(x)>
    RowGenerator, RowCritic  residual multilayer perceptrons
All act on every sample alone. A generator maps (latent (B, latent), vector (B, vector_dim) or None) to what it makes.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from unnoise.networks.layers import zeroed
from unnoise.networks.resnet import Down, Up, act, convolution, from_patches, grown, pyramid, widths


@dataclass(frozen=True)
class PictureShape:
    channels: int
    height: int
    width: int


def _joined(latent: Tensor, vector: Tensor | None) -> Tensor:
    return latent if vector is None else torch.cat([latent, vector], 1)


def _linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(inputs))
    nn.init.zeros_(layer.bias)
    return layer


@dataclass(frozen=True)
class ConditionalGeneratorConfig:
    """`blocks` residual blocks on every level; vector_dim: of the class, 0 for none."""

    shape: PictureShape
    width: int
    latent: int = 64
    vector_dim: int = 0
    blocks: int = 1

    def build(self) -> "ConditionalGenerator":
        return ConditionalGenerator(self)


class ConditionalGenerator(nn.Module):
    def __init__(self, config: ConditionalGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        at = pyramid(config.shape.height, config.shape.width)
        code = config.latent + config.vector_dim
        self.up = Up(config.shape.channels, at, config.width, config.blocks, code)
        self.coarsest = (self.up.channels[-1], *at.sizes[-1])
        self.first = _linear(code, math.prod(self.coarsest))

    def forward(self, latent: Tensor, vector: Tensor | None = None) -> Tensor:
        code = _joined(latent, vector)
        return self.up(self.first(code).unflatten(1, self.coarsest), code)


@dataclass(frozen=True)
class StyleGeneratorConfig:
    """`mapping` layers of `style` units make the style."""

    shape: PictureShape
    width: int
    latent: int = 64
    vector_dim: int = 0
    style: int = 64
    mapping: int = 2

    def build(self) -> "StyleGenerator":
        return StyleGenerator(self)


class ModulatedConvolution(nn.Module):
    """A convolution whose input channels are scaled by the style, demodulated to unit variance: a plain one for all rows."""

    def __init__(self, inputs: int, outputs: int, style: int, side: int = 3, demodulate: bool = True) -> None:
        super().__init__()
        self.affine = _linear(style, inputs)
        nn.init.ones_(self.affine.bias)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side, side) / math.sqrt(inputs * side**2))
        self.bias, self.demodulate = nn.Parameter(torch.zeros(outputs)), demodulate

    @torch.no_grad()
    def alike(self, group: int) -> Self:
        """The same weights at first for every `group` outputs: no chequered pictures (ICNR, 1707.02937)."""
        self.weight.copy_(self.weight[::group].repeat_interleave(group, 0))
        return self

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        s = self.affine(style)
        x = conv2d(x * s[..., None, None], self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulate:
            x = x * torch.rsqrt(s.square() @ self.weight.square().sum((2, 3)).T + 1e-8)[..., None, None]
        return x + self.bias[:, None, None]


class StyleGenerator(nn.Module):
    def __init__(self, config: StyleGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.at = pyramid(config.shape.height, config.shape.width)
        channels = widths(config.width, len(self.at.sizes))
        inputs = config.latent + config.vector_dim
        self.mapping = nn.ModuleList(
            _linear(inputs if i == 0 else config.style, config.style, math.sqrt(2)) for i in range(config.mapping)
        )
        self.start = nn.Parameter(torch.randn(channels[-1], *self.at.sizes[-1]))
        coarser = [*channels[1:], channels[-1]]
        self.first = nn.ModuleList(ModulatedConvolution(b, a, config.style) for a, b in zip(channels, coarser))
        self.second = nn.ModuleList(ModulatedConvolution(a, a, config.style) for a in channels)
        numbers = config.shape.channels * self.at.patch**2
        self.pictures = nn.ModuleList(
            ModulatedConvolution(a, numbers, config.style, 1, False).alike(self.at.patch**2) for a in channels
        )

    def forward(self, latent: Tensor, vector: Tensor | None = None) -> Tensor:
        style = _joined(latent, vector)
        style = style * torch.rsqrt(style.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            style = act(layer(style))
        x, picture = self.start.expand(len(style), -1, -1, -1), None
        for i, size in reversed(list(enumerate(self.at.sizes))):
            x = x if picture is None else grown(x, size)
            x = act(self.first[i](x, style)) * math.sqrt(2)
            x = act(self.second[i](x, style)) * math.sqrt(2)
            mine = self.pictures[i](x, style) * 0.3
            picture = mine if picture is None else grown(picture, size) + mine
        assert picture is not None
        return from_patches(picture, self.at)


@dataclass(frozen=True)
class PictureCriticConfig:
    shape: PictureShape
    width: int
    vector_dim: int = 0
    blocks: int = 1

    def build(self) -> "PictureCritic":
        return PictureCritic(self)


class PictureCritic(nn.Module):
    """(pictures (B, C, H, W), vector (B, vector_dim) or None) -> scores (B,), higher for what looks real."""

    def __init__(self, config: PictureCriticConfig) -> None:
        super().__init__()
        self.config = config
        at = pyramid(config.shape.height, config.shape.width)
        self.down = Down(config.shape.channels, at, config.width, config.blocks)
        top = self.down.channels[-1]
        self.last = convolution(top, top)
        self.features = _linear(top * math.prod(at.sizes[-1]), top, math.sqrt(2))
        self.score = _linear(top, 1)
        self.told = nn.Linear(config.vector_dim, top, bias=False) if config.vector_dim else None

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        h = act(self.last(act(self.down(x))))
        return _projected(act(self.features(h.flatten(1))), self.score, self.told, vector)


def _projected(h: Tensor, score: nn.Linear, told: nn.Linear | None, vector: Tensor | None) -> Tensor:
    out = score(h)[:, 0]
    if told is not None and vector is not None:
        out = out + (told(vector) * h).sum(1) / math.sqrt(h.shape[1])
    return out


class ResidualMLP(nn.Module):
    """h <- h + W2 act(W1 act(h)), all rows (B, width)."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = _linear(inputs, width)
        self.hidden = nn.ModuleList(_linear(width, 2 * width, math.sqrt(2)) for _ in range(depth))
        self.back = nn.ModuleList(zeroed(nn.Linear(2 * width, width)) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for hidden, back in zip(self.hidden, self.back):
            h = h + back(act(hidden(act(h))))
        return act(h)


@dataclass(frozen=True)
class RowGeneratorConfig:
    """`outputs` numbers a row."""

    outputs: int
    width: int
    depth: int = 3
    latent: int = 64
    vector_dim: int = 0

    def build(self) -> "RowGenerator":
        return RowGenerator(self)


class RowGenerator(nn.Module):
    def __init__(self, config: RowGeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResidualMLP(config.latent + config.vector_dim, config.width, config.depth)
        self.out = _linear(config.width, config.outputs)

    def forward(self, latent: Tensor, vector: Tensor | None = None) -> Tensor:
        return self.out(self.trunk(_joined(latent, vector)))


@dataclass(frozen=True)
class RowCriticConfig:
    inputs: int
    width: int
    depth: int = 3
    vector_dim: int = 0

    def build(self) -> "RowCritic":
        return RowCritic(self)


class RowCritic(nn.Module):
    """(rows (B, inputs), vector) -> scores (B,)."""

    def __init__(self, config: RowCriticConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResidualMLP(config.inputs, config.width, config.depth)
        self.score = _linear(config.width, 1)
        self.told = nn.Linear(config.vector_dim, config.width, bias=False) if config.vector_dim else None

    def forward(self, x: Tensor, vector: Tensor | None = None) -> Tensor:
        return _projected(self.trunk(x), self.score, self.told, vector)

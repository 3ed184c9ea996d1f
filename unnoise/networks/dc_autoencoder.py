"""The deep-compression autoencoder of Sana: sides 32 times smaller (Chen et al. 2024, 2410.10733; Xie et al. 2024, 2410.10629).

    fine levels    residual blocks         x + norm(W2 silu(W1 x))
    coarse levels  EfficientViT's blocks (Cai et al. 2022, 2205.14756): linear attention of heads at several scales, then Sana's mlp
                       x + norm(W [a(q_s, k_s, v_s)]_s),   (q, k, v)_1 = W' x,   (q, k, v)_s = those mixed over s x s neighbours
                       a without softmax (`attend_linearly`)
                       x + norm(mlp(x))                                                          (`sana.MixingMLP`)
    norm           w x / rms of its channels + b, position by position
Levels, the code and the decoder's beginning have shortcuts without parameters, as in `autoencoder`, where convolutions learn what
those miss; here the sides halve by a convolution of stride 2 and double by repeating pixels before one (`doubling`).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, relu, silu

from unnoise.networks.attention import attend_linearly
from unnoise.networks.autoencoder import averaged, repeated
from unnoise.networks.doubling import Doubling
from unnoise.networks.layers import rms_normalise, wide
from unnoise.networks.picture_autoencoder import PictureAutoencoder, PictureAutoencoderConfig, channels_last, refuse_uneven
from unnoise.networks.sana import MixingMLP

EPS = 1e-5


@dataclass(frozen=True)
class DCAutoencoderConfig(PictureAutoencoderConfig):
    """For every level, the finest first, widths: channels; encoder, decoder: blocks, at least one each.

    residual: how many levels have residual blocks, the finest ones; the others attend, with heads of head_dim channels. scales:
    sides of the neighbourhoods, odd, beside single positions.
    """

    channels: int = 3
    latent_channels: int = 32
    widths: tuple[int, ...] = (128, 256, 512, 512, 1024, 1024)
    encoder: tuple[int, ...] = (2, 2, 2, 3, 3, 3)
    decoder: tuple[int, ...] = (3, 3, 3, 3, 3, 3)
    residual: int = 3
    scales: tuple[int, ...] = (5,)
    head_dim: int = 32

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.encoder) == len(self.decoder) > 0 or min(self.encoder + self.decoder) < 1:
            raise ValueError(f"widths {self.widths}, blocks {self.encoder} and {self.decoder}: at least one block for every level")
        if self.widths[-1] % self.latent_channels or any(
            4 * a % b for a, b in [*pairwise(self.widths), *pairwise(self.widths[::-1])]
        ):
            raise ValueError(f"widths {self.widths} do not divide each other's fourfold, or the last not by {self.latent_channels}")
        if any(width % self.head_dim for width in self.widths[self.residual :]) or any(side % 2 == 0 for side in self.scales):
            raise ValueError(f"widths {self.widths} must divide into heads of {self.head_dim}, scales {self.scales} must be odd")

    @property
    def factor(self) -> int:
        return 2 ** (len(self.widths) - 1)

    @property
    def reach(self) -> None:
        return None

    def build(self) -> "DCAutoencoder":
        return DCAutoencoder(self)


class ChannelNorm(nn.Module):
    """(B, H, W, C) -> the same: position by position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, rms_normalise(x, EPS), self.weight)


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), a view; of channels_last x one without gaps."""
    return x.permute(0, 2, 3, 1)


def _columns(x: Tensor) -> Tensor:
    """The way back."""
    return x.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + _columns(self.norm(_rows(self.second(silu(self.first(x))))))


class Neighbourhood(nn.Module):
    """Queries, keys and values (B, C, H, W) mixed: every channel over side x side neighbours, then each head's `dim` channels."""

    def __init__(self, channels: int, dim: int, side: int) -> None:
        super().__init__()
        self.gather = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels, bias=False)
        self.mix = nn.Conv2d(channels, channels, 1, groups=channels // dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.gather(x))


class MultiscaleAttention(nn.Module):
    """Linear attention to all positions, in time and memory linear in their number."""

    def __init__(self, width: int, head_dim: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.scales = nn.ModuleList(Neighbourhood(3 * width, head_dim, side) for side in scales)
        self.out = nn.Linear(width * (1 + len(scales)), width, bias=False)
        self.norm = ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same. Sums over positions are in float32 at least."""
        qkv = _columns(self.qkv(_rows(x)))
        qkv = torch.cat([qkv, *(scale(qkv) for scale in self.scales)], 1).to(wide(x))
        q, k, v = qkv.flatten(2).unflatten(1, (-1, 3, self.head_dim)).transpose(-2, -1).unbind(2)  # (B, heads, N, head_dim)
        attended = attend_linearly(q, k, v).permute(0, 2, 1, 3).flatten(2).unflatten(1, x.shape[2:])
        return _columns(self.norm(self.out(attended.to(x.dtype))))


class AttentionBlock(nn.Module):
    def __init__(self, width: int, head_dim: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.attention = MultiscaleAttention(width, head_dim, scales)
        self.mlp, self.mlp_norm = MixingMLP(width, 4 * width), ChannelNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        mixed = self.mlp(_rows(x)).unflatten(1, x.shape[2:])
        return x + _columns(self.mlp_norm(mixed))


class Shrinking(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution, self.outputs = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x) + averaged(pixel_unshuffle(x, 2), self.outputs)


class Enlarging(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolution, self.outputs = Doubling(inputs, outputs), outputs

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x) + pixel_shuffle(repeated(x, 4 * self.outputs), 2)


def _blocks(config: DCAutoencoderConfig, level: int, number: int) -> list[nn.Module]:
    width = config.widths[level]
    if level < config.residual:
        return [ResidualBlock(width) for _ in range(number)]
    return [AttentionBlock(width, config.head_dim, config.scales) for _ in range(number)]


class Encoder(nn.Module):
    def __init__(self, config: DCAutoencoderConfig) -> None:
        super().__init__()
        widths, self.latent_channels = config.widths, config.latent_channels
        self.first = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        changes = [[Shrinking(a, b)] for a, b in pairwise(widths)]
        blocks = [_blocks(config, i, n) for i, n in enumerate(config.encoder)]
        self.levels = nn.Sequential(*(nn.Sequential(*b, *c) for b, c in zip(blocks, [*changes, []])))
        self.last = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.levels(self.first(x))
        return self.last(h) + averaged(h, self.latent_channels)


class Decoder(nn.Module):
    """Its levels are numbered as the encoder's, the finest first, and run the other way."""

    def __init__(self, config: DCAutoencoderConfig) -> None:
        super().__init__()
        self.width = config.widths[-1]
        self.first = nn.Conv2d(config.latent_channels, self.width, 3, padding=1)
        changes = [[Enlarging(b, a)] for a, b in pairwise(config.widths)]
        blocks = [_blocks(config, i, n) for i, n in enumerate(config.decoder)]
        self.levels = nn.ModuleList(nn.Sequential(*c, *b) for b, c in zip(blocks, [*changes, []]))
        self.norm = ChannelNorm(config.widths[0])
        self.last = nn.Conv2d(config.widths[0], config.channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z) + repeated(z, self.width)
        for level in reversed(self.levels):
            h = level(h)
        return self.last(relu(_columns(self.norm(_rows(h)))))


class DCAutoencoder(PictureAutoencoder):
    """Works in the dtype of its weights, channels last; gives float32 at least."""

    def __init__(self, config: DCAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    def encode(self, x: Tensor) -> Tensor:
        refuse_uneven(x, self.config.factor)
        z = self.encoder(channels_last(x, self.encoder.first.weight))
        return z.to(wide(z))

    def decode(self, z: Tensor) -> Tensor:
        x = self.decoder(channels_last(z, self.decoder.first.weight))
        return x.to(wide(x))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encode(x)
        return z, torch.zeros_like(z)

"""The magnitude-preserving U-Net of EDM2 (Karras et al. 2023, 2312.02696, config G), for pictures of any size.

Every operation keeps the expected magnitude sqrt(mean(x^2)) of what goes through it at 1, so nothing needs a norm layer:
    weights       W / |W| by output channel, in every forward pass and, by force, after every training step      (eq. 47, 66)
    mp_silu(x)    silu(x) / 0.596                                                                                (eq. 81)
    mp_sum(a, b)  ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)                                                      (eq. 88)
    mp_cat(a, b)  both halves weighted so that each contributes its share t                                      (eq. 103)
    attention     between queries, keys and values of unit length a head ("cosine attention")
    pixel norm    x / sqrt(mean(x^2)) over the channels, once a block of the encoder
A gain that starts at 0 scales the output. After every optimiser step call `renormalise_weights(network)`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, linear, silu

from unnoise.networks.attention import SelfAttending
from unnoise.networks.embedding import Fourier, NoiseFeatures
from unnoise.networks.layers import beside, pad_to_multiple, run, wide

EPS = 1e-4
SILU_MAGNITUDE = 0.596  # sqrt(E[silu(x)^2]), x ~ N(0, 1)


@dataclass(frozen=True)
class MPUNetConfig:
    """As UNetConfig; it is told no words, only `vector` and `picture`.

    residual and concat: the shares t of a block and of the skips.
    """

    channels: int
    out_channels: int | None = None
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 3)
    blocks: int = 2
    attention: tuple[int, ...] = (2,)
    vector_dim: int = 0
    head_dim: int = 64
    dropout: float = 0.0
    residual: float = 0.3
    concat: float = 0.5
    features: NoiseFeatures = Fourier()
    picture_channels: int = 0

    def __post_init__(self) -> None:
        for level in self.attention:
            if not 0 <= level < len(self.multipliers):
                raise ValueError(f"attention at level {level}: this U-Net has the levels 0 to {len(self.multipliers) - 1}")

    def build(self) -> "MPUNet":
        return MPUNet(self)


def unit(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """x with mean square 1 along `dim`."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=wide(x))
    return x * (1 / (norm * math.sqrt(norm.numel() / x.numel()) + EPS)).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    return silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    return torch.lerp(a, b.to(a.dtype), t) / math.hypot(1 - t, t)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Along the channels, axis 1."""
    n_a, n_b = a.shape[1], b.shape[1]
    c = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (c / math.sqrt(n_a) * (1 - t)), b * (c / math.sqrt(n_b) * t)], 1)


class MPConv(nn.Module):
    """A convolution (kernel 1, 3, ...) or, with kernel 0, a linear layer; every output channel's weight has unit length."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, *([kernel, kernel] if kernel else [])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        w = self.normalised() * (gain / math.sqrt(self.weight[0].numel()))
        w = w.to(x.dtype)
        return linear(x, w) if w.ndim == 2 else conv2d(x, w, padding=w.shape[-1] // 2)

    def normalised(self) -> Tensor:
        return unit(self.weight, tuple(range(1, self.weight.ndim)))

    @torch.no_grad()
    def renormalise(self) -> None:
        self.weight.copy_(self.normalised())


def renormalise_weights(network: nn.Module) -> None:
    """Force every magnitude-preserving weight of `network` to unit magnitude, in place (section 2.3 of the paper).

    Call it after every optimiser step: the weights cannot grow, so the learning rate alone says how fast they turn. It leaves
    the function that the network computes as it is, and other kinds of layers alone.
    """
    for module in network.modules():
        if isinstance(module, MPConv):
            module.renormalise()


class MPSelfAttention(SelfAttending):
    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.heads = dim // (head_dim or dim)
        self.qkv, self.out = MPConv(dim, 3 * dim, 0), MPConv(dim, dim, 0)

    def forward(self, x: Tensor) -> Tensor:
        """The residual branch: (B, C, H, W) -> the same."""
        h = self.qkv(x.permute(0, 2, 3, 1).flatten(1, 2)).unflatten(-1, (3, self.heads, -1))
        q, k, v = unit(h, -1).transpose(1, 3).unbind(2)  # each (B, heads, N, D), mean square 1 over D
        h = self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class MPBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, c_emb: int, config: MPUNetConfig, *, encoder: bool, attention: bool) -> None:
        super().__init__()
        self.encoder, self.share = encoder, config.residual
        self.skip = MPConv(c_in, c_out, 1) if c_in != c_out else None
        self.conv1, self.conv2 = MPConv(c_out if encoder else c_in, c_out, 3), MPConv(c_out, c_out, 3)
        self.modulation, self.gain = MPConv(c_emb, c_out, 0), nn.Parameter(torch.zeros(()))
        self.dropout = nn.Dropout(config.dropout)
        self.attention = MPSelfAttention(c_out, config.head_dim) if attention else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.encoder:
            x = unit(self.skip(x) if self.skip is not None else x, 1)
        h = self.conv1(mp_silu(x))
        h = h * (self.modulation(emb, self.gain) + 1)[:, :, None, None]
        h = self.conv2(self.dropout(mp_silu(h)))
        if not self.encoder and self.skip is not None:
            x = self.skip(x)
        x = mp_sum(x, h, self.share)
        return x if self.attention is None else mp_sum(x, self.attention(x), self.share)


class MPUNet(nn.Module):
    """Set `checkpointing` to trade time for memory in training. `blocks` run in order: down, middle (two), up.

    A block that begins a new level is preceded by averaging 2 x 2 pixels (down) or repeating them (up).
    """

    def __init__(self, config: MPUNetConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        widths = [config.width * m for m in config.multipliers]
        levels, c_emb = range(len(widths)), max(widths)

        def block(c_in: int, level: int, *, encoder: bool, attention: bool) -> MPBlock:
            return MPBlock(c_in, widths[level], c_emb, config, encoder=encoder, attention=attention)

        self.features = config.features.build(config.width)
        self.noise = MPConv(config.width, c_emb, 0)
        self.vector = MPConv(config.vector_dim, c_emb, 0) if config.vector_dim else None
        self.first = MPConv(config.channels + config.picture_channels + 1, widths[0], 3)  # a channel of ones stands for the bias
        self.blocks = nn.ModuleList()
        skips = [c := widths[0]]
        for level in levels:
            for i in range(config.blocks + (level > 0)):
                resampled = level > 0 and i == 0
                self.blocks.append(block(c, level, encoder=True, attention=level in config.attention and not resampled))
                skips.append(c := widths[level])
        self.blocks.append(block(c, levels[-1], encoder=False, attention=True))
        self.blocks.append(block(c, levels[-1], encoder=False, attention=False))
        for level in reversed(levels):
            if level < levels[-1]:
                self.blocks.append(block(c, level, encoder=False, attention=False))
                c = widths[level]
            for _ in range(config.blocks + 1):
                self.blocks.append(block(c + skips.pop(), level, encoder=False, attention=level in config.attention))
                c = widths[level]
        self.last, self.gain = MPConv(c, config.out_channels or config.channels, 3), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W) of unit variance, noise_level (B,), cond: `vector` (B, vector_dim) of any length, `picture`
        (B, picture_channels, H, W) of unit variance -> as x."""
        height, width = x.shape[-2:]
        dtype, levels = self.last.weight.dtype, range(len(self.config.multipliers))
        emb = self.noise(self.features(noise_level).to(dtype))
        if self.vector is not None and "vector" in cond:
            emb = mp_sum(emb, self.vector(unit(cond["vector"].to(dtype), 1)), 0.5)
        emb = mp_silu(emb)

        h = pad_to_multiple(beside(x.to(dtype), cond, self.config.picture_channels), 2 ** levels[-1])
        h = self.first(torch.cat([h, torch.ones_like(h[:, :1])], 1))
        skips, blocks = [h], iter(self.blocks)
        for level in levels:
            for i in range(self.config.blocks + (level > 0)):
                h = avg_pool2d(h, 2) if level > 0 and i == 0 else h
                h = run(next(blocks), self.checkpointing, h, emb)
                skips.append(h)
        for _ in range(2):
            h = run(next(blocks), self.checkpointing, h, emb)
        for level in reversed(levels):
            if level < levels[-1]:
                h = run(next(blocks), self.checkpointing, interpolate(h, scale_factor=2.0, mode="nearest"), emb)
            for _ in range(self.config.blocks + 1):
                h = run(next(blocks), self.checkpointing, mp_cat(h, skips.pop(), self.config.concat), emb)
        return self.last(h, self.gain)[..., :height, :width].to(x.dtype)

"""The U-Net of DDPM for pictures of any size (Ho et al. 2020, 2006.11239, appendix B), with what has proved itself since.

    residual block   x + conv(silu(norm(conv(silu(norm(x)))))), the noise level and `vector` scaling and shifting the second norm
                     (Nichol & Dhariwal 2021, 2102.09672, eq. 6) or only shifting before it (DDPM)
    attention        self-attention between positions, at the chosen levels and in the middle
    words            cross-attention to `tokens` at the chosen levels and in the middle (Rombach et al. 2021, 2112.10752)
Level i works on 1 / 2^i of the size; sizes that do not divide are padded by repeating the border, and cropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from unnoise.networks.attention import SelfAttending, attend
from unnoise.networks.embedding import NoiseEmbedding, NoiseFeatures, Sinusoidal
from unnoise.networks.layers import context_of, pad_to_multiple, run, zeroed
from unnoise.networks.norm import GroupNorm


@dataclass(frozen=True)
class UNetConfig:
    """channels: of the picture (`out_channels` where the output differs); level i has width * multipliers[i] channels.

    attention and words: the levels with self-attention and with cross-attention to tokens (the middle has both always).
    vector_dim, token_dim and picture_channels: of the condition, 0 for none. head_dim: channels of an attention head (0: one).
    scale_shift: False for DDPM's modulation, which only shifts.
    """

    channels: int
    out_channels: int | None = None
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (2,)
    words: tuple[int, ...] = (1, 2)
    vector_dim: int = 0
    token_dim: int = 0
    head_dim: int = 64
    groups: int = 32
    dropout: float = 0.0
    scale_shift: bool = True
    features: NoiseFeatures = Sinusoidal()
    picture_channels: int = 0

    def __post_init__(self) -> None:
        for level in (*self.attention, *self.words):
            if not 0 <= level < len(self.multipliers):
                raise ValueError(f"attention at level {level}: this U-Net has the levels 0 to {len(self.multipliers) - 1}")
        for c in (self.width * m for m in self.multipliers):
            if c % self.groups:
                raise ValueError(f"{c} channels do not divide into {self.groups} groups")

    def build(self) -> "UNet":
        return UNet(self)


def ddpm_cifar10() -> UNetConfig:
    """The 35.7M-parameter network of DDPM for CIFAR-10: 128 channels, attention at 16 x 16."""
    return UNetConfig(3, None, 128, (1, 2, 2, 2), 2, (1,), (), head_dim=0, dropout=0.1, scale_shift=False)


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, c_emb: int, groups: int, dropout: float, scale_shift: bool) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.modulation = nn.Linear(c_emb, 2 * c_out if scale_shift else c_out)
        self.norm2 = GroupNorm(groups, c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        self.scale_shift = scale_shift

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        m = self.modulation(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = m.chunk(2, 1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + m)
        return self.skip(x) + self.conv2(self.dropout(silu(h)))


class SelfAttention(SelfAttending):
    def __init__(self, dim: int, head_dim: int, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.heads = dim // (head_dim or dim)
        self.norm = GroupNorm(groups, dim, eps)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), zeroed(nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        h = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B, N, C), no copy where x is channels_last
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        h = self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return x + h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class CrossAttention(nn.Module):
    """To tokens (B, L, token_dim), and to one learned token that counts always: attention to nothing, where all are masked."""

    def __init__(self, dim: int, head_dim: int, groups: int, token_dim: int) -> None:
        super().__init__()
        self.heads = dim // (head_dim or dim)
        self.norm = GroupNorm(groups, dim)
        self.nothing = nn.Parameter(torch.randn(token_dim) * 0.02)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(token_dim, 2 * dim)
        self.out = zeroed(nn.Linear(dim, dim))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        h = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)
        tokens = torch.cat([self.nothing.to(tokens.dtype).expand(len(tokens), 1, -1), tokens], 1)
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
        q = self.q(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(tokens).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        h = self.out(attend(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Block(nn.Module):
    """A residual block, then what attention its place has."""

    def __init__(self, c_in: int, c_out: int, config: UNetConfig, attention: bool, words: bool) -> None:
        super().__init__()
        self.residual = ResidualBlock(c_in, c_out, 4 * config.width, config.groups, config.dropout, config.scale_shift)
        self.attention = SelfAttention(c_out, config.head_dim, config.groups) if attention else None
        self.words = CrossAttention(c_out, config.head_dim, config.groups, config.token_dim) if words and config.token_dim else None

    def forward(self, x: Tensor, emb: Tensor, context: tuple[Tensor, Tensor] | None) -> Tensor:
        x = self.residual(x, emb)
        if self.attention is not None:
            x = self.attention(x)
        if self.words is not None and context is not None:
            x = self.words(x, *context)
        return x


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """To twice the size, or to this one: where the size before halving was odd, that is one less."""
        return self.conv(interpolate(x, size and list(size), None if size else 2.0, mode="nearest"))


class UNet(nn.Module):
    """Set `checkpointing` to trade time for memory in training. `blocks` run in order: down, middle (two), up."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        widths = [config.width * m for m in config.multipliers]
        levels = range(len(widths))

        def block(c_in: int, level: int) -> Block:
            return Block(c_in, widths[level], config, level in config.attention, level in config.words)

        self.embedding = NoiseEmbedding(config.features, config.width, 4 * config.width, config.vector_dim)
        self.first = nn.Conv2d(config.channels, config.width, 3, padding=1)
        # told nothing at first, so that a trained network that is given this layer goes on as it was
        pictured = nn.Conv2d(config.picture_channels, config.width, 3, padding=1, bias=False) if config.picture_channels else None
        self.picture = None if pictured is None else zeroed(pictured)
        self.blocks = nn.ModuleList()
        skips, c = [config.width], config.width
        for level in levels:
            for _ in range(config.blocks):
                self.blocks.append(block(c, level))
                c = widths[level]
                skips.append(c)
            if level < levels[-1]:
                skips.append(c)
        self.blocks.append(Block(c, c, config, True, True))
        self.blocks.append(Block(c, c, config, False, False))
        for level in reversed(levels):
            for _ in range(config.blocks + 1):
                self.blocks.append(block(c + skips.pop(), level))
                c = widths[level]
        self.down = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.up = nn.ModuleList(Upsample(w) for w in widths[1:])
        self.norm = GroupNorm(config.groups, c)
        self.last = zeroed(nn.Conv2d(c, config.out_channels or config.channels, 3, padding=1))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W), noise_level (B,), cond: `vector` (B, vector_dim), `tokens` (B, L, token_dim), `mask` (B, L),
        `picture` (B, picture_channels, H, W) -> as x.

        Entries that this network was not built for are ignored, absent ones add nothing.
        """
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> "Entered":
        """Arguments as forward's."""
        dtype, multiple = self.last.weight.dtype, 2 ** (len(self.config.multipliers) - 1)
        emb = silu(self.embedding(noise_level, cond.get("vector")))
        context = context_of(cond, dtype) if self.config.token_dim else None
        first = self.first(pad_to_multiple(x.to(dtype), multiple))
        if self.picture is not None and "picture" in cond:
            first = first + self.picture(pad_to_multiple(cond["picture"].to(dtype), multiple))
        return Entered(first, emb, context, x)

    def deep(self, entered: "Entered") -> Tensor:
        """What the last block of the way up sees beside the first layer's features."""
        h, emb, context, _ = entered
        levels = range(len(self.config.multipliers))
        skips, blocks = [h], iter(self.blocks[:-1])
        for level in levels:
            for _ in range(self.config.blocks):
                h = run(next(blocks), self.checkpointing, h, emb, context)
                skips.append(h)
            if level < levels[-1]:
                h = self.down[level](h)
                skips.append(h)
        for _ in range(2):
            h = run(next(blocks), self.checkpointing, h, emb, context)
        for level in reversed(levels):
            for _ in range(self.config.blocks + (level > 0)):
                h = run(next(blocks), self.checkpointing, torch.cat([h, skips.pop()], 1), emb, context)
            if level > 0:
                h = self.up[level - 1](h)
        return h

    def leave(self, entered: "Entered", deep: Tensor) -> Tensor:
        first, emb, context, x = entered
        height, width = x.shape[-2:]
        h = run(self.blocks[-1], self.checkpointing, torch.cat([deep, first], 1), emb, context)
        return self.last(silu(self.norm(h)))[..., :height, :width].to(x.dtype)


class Entered(NamedTuple):
    """The first layer's features (B, width, H, W) of the picture x; emb (B, 4 width); tokens and their mask."""

    first: Tensor
    emb: Tensor
    context: tuple[Tensor, Tensor] | None
    x: Tensor

    @property
    def base(self) -> None:
        return None

"""The transformer of PixArt-alpha and PixArt-Sigma (Chen et al. 2023, 2310.00426, section 2.3; Chen et al. 2024, 2403.04692).

Patches of the picture attend to themselves and then to the words. One layer W makes the modulation for all blocks, to which each
adds a table of its own (adaLN-single); e embeds the noise level and, in alpha, the picture's sizes; LN has no weights:

    (b1, s1, g1, b2, s2, g2) = W silu(e) + table
    x <- x + g1 attention((1 + s1) LN(x) + b1),   x <- x + attention(x, words),   x <- x + g2 mlp((1 + s2) LN(x) + b2)
    out = V ((1 + s) LN(x) + b),   (b, s) = table + e

Absolute positions, sines and cosines, run from 0 to `unit` over a picture of any size: they stretch with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unnoise.networks.attention import attend_if_any
from unnoise.networks.embedding import EmbeddingSum, NoiseFeatures, Timesteps, TwoLayers, number_features, sincos_stretched
from unnoise.networks.layers import RMSNorm, context_of, pad_to_multiple, run, unpatchify, zeroed
from unnoise.networks.mmdit import SelfAttention, mlp, modulated

SIZES = 3
"""What alpha is told of a picture: its height and width in pixels, and height / width."""


@dataclass(frozen=True)
class PixArtConfig:
    """channels: of the picture; patch: its side in pixels; token_dim: of the condition.

    width: of a token, divisible by 4 and by heads. unit: where the coordinates end. sizes: whether the network is told the
    picture's height and width in pixels, and their ratio (alpha at 1024 pixels); width is then divisible by 3. variance: whether
    the last layer tells a variance too (Nichol & Dhariwal 2021, 2102.09672), which is not read here.
    """

    channels: int = 4
    patch: int = 2
    width: int = 1152
    depth: int = 28
    heads: int = 16
    token_dim: int = 4096
    unit: float = 32.0
    sizes: bool = False
    variance: bool = True
    features: NoiseFeatures = Timesteps()

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} must be divisible by 4 and by {self.heads} heads")
        if self.sizes and self.width % SIZES:
            raise ValueError(f"width {self.width} must be divisible by {SIZES} where sizes are told")

    def build(self) -> "PixArt":
        return PixArt(self)


class PixArt(nn.Module):
    """Set `checkpointing` to trade time for memory in training."""

    def __init__(self, config: PixArtConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        width, p = config.width, config.patch
        self.patches = nn.Conv2d(config.channels, width, p, stride=p)
        self.embedding = EmbeddingSum(config.features, 256, width, 0)
        self.sizes = SizesEmbedding(width) if config.sizes else None
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.tokens = words_layers(config.token_dim, width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.table = nn.Parameter(torch.zeros(2, width))
        self.out = zeroed(nn.Linear(width, config.channels * p * p * (2 if config.variance else 1)))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W), noise_level (B,), cond: `tokens` (B, L, token_dim), `mask` (B, L), `vector` (B, SIZES) -> as x.

        Absent sizes count as zeros, and absent tokens as none.
        """
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> "Entered":
        """Arguments as forward's."""
        dtype, config = self.out.weight.dtype, self.config
        h = self.patches(pad_to_multiple(x.to(dtype), config.patch))
        rows, columns = h.shape[-2:]
        h = h.flatten(2).transpose(1, 2) + sincos_stretched(rows, columns, config.unit, config.width, x.device).to(dtype)
        words, mask = words_of(cond, self.tokens, h)
        e = self.embedding(noise_level, None)
        if self.sizes is not None:
            e = e + self.sizes(cond["vector"] if "vector" in cond else e.new_zeros(len(e), SIZES))
        return Entered(h, words, mask, e, rows, columns, x)

    def deep(self, entered: "Entered") -> Tensor:
        h, words, mask, e, *_ = entered
        modulation = self.modulation(nn.functional.silu(e)).unflatten(-1, (6, -1))
        for block in self.blocks:
            h = run(block, self.checkpointing, h, words, modulation, mask)
        return h

    def leave(self, entered: "Entered", deep: Tensor) -> Tensor:
        return picture_of(entered, deep, self.table, self.out, self.config.patch, self.config.channels)


class Entered(NamedTuple):
    """Patches h (B, N, width), in rows and columns, of the picture x; words (B, L, width) and their mask; e (B, width)."""

    h: Tensor
    words: Tensor
    mask: Tensor | None
    e: Tensor
    rows: int
    columns: int
    x: Tensor

    @property
    def base(self) -> Tensor:
        return self.h


def picture_of(entered: Entered, deep: Tensor, table: Tensor, out: nn.Linear, patch: int, channels: int) -> Tensor:
    """What is read off the last patches (B, N, width): (B, channels, H, W), of the size of the picture that was entered.

    table (2, width): shift and scale, beside the noise level's own.
    """
    *_, e, rows, columns, x = entered
    height, width = x.shape[-2:]
    shift, scale = (table + e[:, None]).unbind(1)
    h = channels_first(out(modulated(deep, shift, scale)), patch, channels)
    return unpatchify(h, rows, columns, patch)[..., :height, :width].to(x.dtype)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, width))
        self.attention = SelfAttention(width, heads, norm_qk=False)
        self.words = WordsAttention(width, heads, norm_qk=False)
        self.mlp = mlp(width)

    def forward(self, x: Tensor, words: Tensor, modulation: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, N, width), words (B, L, width), modulation (B, 6, width), mask (B, L) or None -> as x."""
        b1, s1, g1, b2, s2, g2 = (self.table + modulation).unbind(1)
        x = torch.addcmul(x, g1[:, None], self.attention(modulated(x, b1, s1)))
        x = x + self.words(x, words, mask)
        return torch.addcmul(x, g2[:, None], self.mlp(modulated(x, b2, s2)))


class WordsAttention(nn.Module):
    """To the words. Where there are none that count, nothing is attended to.

    norm_qk: queries and keys are RMS-normalised, all heads together.
    """

    def __init__(self, width: int, heads: int, norm_qk: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.q_norm = RMSNorm(width, eps=1e-5) if norm_qk else nn.Identity()
        self.k_norm = RMSNorm(width, eps=1e-5) if norm_qk else nn.Identity()
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, words: Tensor, mask: Tensor | None) -> Tensor:
        k, v = self.kv(words).chunk(2, -1)
        q, k, v = (h.unflatten(-1, (self.heads, -1)).transpose(1, 2) for h in (self.q_norm(self.q(x)), self.k_norm(k), v))
        return self.out(attend_if_any(q, k, v, mask).transpose(1, 2).flatten(2))


class SizesEmbedding(nn.Module):
    """Harmonics of a picture's height, width and their ratio, through two layers each, side by side: (B, SIZES) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sides, self.ratio = TwoLayers(256, width // SIZES), TwoLayers(256, width // SIZES)

    def forward(self, sizes: Tensor) -> Tensor:
        features = number_features(sizes.float(), 256)  # (B, SIZES, 256)
        return torch.cat([self.sides(features[:, :2]), self.ratio(features[:, 2:])], 1).flatten(1)


def words_layers(token_dim: int, width: int) -> nn.Sequential:
    """What a text encoder's tokens go through before any block."""
    return nn.Sequential(nn.Linear(token_dim, width), nn.GELU("tanh"), nn.Linear(width, width))


def words_of(cond: Mapping[str, Tensor], layers: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The words (B, L, width), none where there are none, and which of them count (B, L): None for all. x (B, N, width)."""
    context = context_of(cond, x.dtype)
    if context is None:
        return x[:, :0], None
    return layers(context[0]), context[1] if "mask" in cond else None


def channels_first(x: Tensor, p: int, channels: int) -> Tensor:
    """What a last layer gives whose weights have a patch's channels last, as `unpatchify` reads it.

    (B, N, p p D), D >= channels -> (B, N, channels p p), the first of the channels.
    """
    return x.unflatten(-1, (p * p, -1))[..., :channels].transpose(-1, -2).flatten(-2)

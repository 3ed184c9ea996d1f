"""The transformer of Sana (Xie et al. 2024, 2410.10629, section 2.2) and of Sana-Sprint (Chen et al. 2025, 2503.09641).

Its modulation and its words are PixArt's (`pixart`); its attention to itself is linear in the number of patches, and its mlp mixes
neighbours, which is what tells where a patch lies: there are no positions, but for pictures of 4096 pixels.

    attention   q, k, v = W x, without softmax (`attend_linearly`)
    mlp         (h, g) = conv3x3(silu(W1 x)), every channel by itself,   W2 (h * silu(g))
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from unnoise.networks.attention import attend_linearly
from unnoise.networks.embedding import EmbeddingSum, NoiseFeatures, Timesteps, sincos_stretched
from unnoise.networks.layers import RMSNorm, pad_to_multiple, run, wide, zeroed
from unnoise.networks.mmdit import modulated
from unnoise.networks.pixart import Entered, WordsAttention, picture_of, words_layers, words_of


@dataclass(frozen=True)
class SanaConfig:
    """channels: of the picture; patch: its side in pixels; token_dim: of the condition.

    width: of a token, divisible by 4 and by heads. heads: of the linear attention; word_heads: of the attention to the words;
    hidden: the mlp's channels. norm_qk: normalise queries and keys (Sprint). unit: where the coordinates end; None for no
    positions. guidance: what the guidance scale that the network is told is multiplied by (Sprint); None where it is told none.
    """

    channels: int = 32
    patch: int = 1
    width: int = 2240
    depth: int = 20
    heads: int = 70
    word_heads: int = 20
    hidden: int = 5600
    token_dim: int = 2304
    norm_qk: bool = False
    unit: float | None = None
    guidance: float | None = None
    features: NoiseFeatures = Timesteps()

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % self.word_heads or self.width % 4:
            raise ValueError(
                f"width {self.width} must be divisible by 4, by {self.heads} heads and by {self.word_heads} word_heads"
            )

    def build(self) -> "Sana":
        return Sana(self)


class Sana(nn.Module):
    """Set `checkpointing` to trade time for memory in training."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        width, p = config.width, config.patch
        self.patches = nn.Conv2d(config.channels, width, p, stride=p)
        self.embedding = EmbeddingSum(config.features, 256, width, 0, config.guidance is not None)
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.tokens = words_layers(config.token_dim, width).append(RMSNorm(width, eps=1e-5))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.table = nn.Parameter(torch.zeros(2, width))
        self.out = zeroed(nn.Linear(width, config.channels * p * p))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W), noise_level (B,), cond: `tokens` (B, L, token_dim), `mask` (B, L), `guidance` (B,) -> as x.

        Absent tokens count as none, an absent guidance as 1: plainly conditional.
        """
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Entered:
        """Arguments as forward's."""
        dtype, config = self.out.weight.dtype, self.config
        h = self.patches(pad_to_multiple(x.to(dtype), config.patch))
        rows, columns = h.shape[-2:]
        h = h.flatten(2).transpose(1, 2)
        if config.unit is not None:
            h = h + sincos_stretched(rows, columns, config.unit, config.width, x.device).to(dtype)
        words, mask = words_of(cond, self.tokens, h)
        guidance = cond["guidance"] if "guidance" in cond else torch.ones_like(noise_level)
        e = self.embedding(noise_level, None, None if config.guidance is None else guidance * config.guidance)
        return Entered(h, words, mask, e, rows, columns, x)

    def deep(self, entered: Entered) -> Tensor:
        h, words, mask, e, rows, columns, _ = entered
        modulation = self.modulation(silu(e)).unflatten(-1, (6, -1))
        h = h.unflatten(1, (rows, columns))
        for block in self.blocks:
            h = run(block, self.checkpointing, h, words, modulation, mask)
        return h.flatten(1, 2)

    def leave(self, entered: Entered, deep: Tensor) -> Tensor:
        return picture_of(entered, deep, self.table, self.out, self.config.patch, self.config.channels)


class Block(nn.Module):
    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        width = config.width
        self.table = nn.Parameter(torch.zeros(6, width))
        self.attention = LinearAttention(width, config.heads, config.norm_qk)
        self.words = WordsAttention(width, config.word_heads, config.norm_qk)
        self.mlp = MixingMLP(width, config.hidden)

    def forward(self, x: Tensor, words: Tensor, modulation: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, rows, columns, width), words (B, L, width), modulation (B, 6, width), mask (B, L) or None -> as x."""
        size = x.shape[1:3]
        b1, s1, g1, b2, s2, g2 = (self.table + modulation).unbind(1)
        x = x.flatten(1, 2)
        x = torch.addcmul(x, g1[:, None], self.attention(modulated(x, b1, s1)))
        x = x + self.words(x, words, mask)
        return torch.addcmul(x, g2[:, None], self.mlp(modulated(x, b2, s2).unflatten(1, size))).unflatten(1, size)


class LinearAttention(nn.Module):
    """To itself, in time and memory linear in N. norm_qk: queries and keys are RMS-normalised, all heads together."""

    def __init__(self, width: int, heads: int, norm_qk: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.q_norm = RMSNorm(width, eps=1e-5) if norm_qk else nn.Identity()
        self.k_norm = RMSNorm(width, eps=1e-5) if norm_qk else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same. Sums over the patches are in float32 at least."""
        q, k, v = self.qkv(x).chunk(3, -1)
        each = (h.unflatten(-1, (self.heads, -1)).transpose(1, 2).to(wide(x)) for h in (self.q_norm(q), self.k_norm(k), v))
        return self.out(attend_linearly(*each).transpose(1, 2).flatten(2).to(x.dtype))


class MixingMLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 2 * hidden)
        self.mix = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, rows, columns, width) -> (B, N, width)."""
        h, gate = self.mix(silu(self.hidden(x)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2).chunk(2, -1)
        return self.out(h * silu(gate))

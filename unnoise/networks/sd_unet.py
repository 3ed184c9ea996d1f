"""The U-Net of Stable Diffusion 1, 2 and XL (Rombach et al. 2021, 2112.10752, section 3.3; Podell et al. 2023, 2307.01952).

DDPM's residual blocks (`unet`); behind each, at levels that have them, a transformer over the positions, whose blocks are

    x <- x + attention(LN(x)),   x <- x + attention(LN(x), words),   x <- x + W2 (a * gelu(b)),  (a, b) = W1 LN(x)    (GEGLU)

What XL is told beside its words - a summary of them, and the Fourier features of sizes and crop (`embedding.size_features`) - is
`vector`. Level i works on 1 / 2^i of the size; sizes that do not divide are padded by repeating the border, and cropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from unnoise.networks.attention import attend
from unnoise.networks.embedding import EmbeddingSum, NoiseFeatures, Timesteps
from unnoise.networks.layers import beside, context_of, pad_to_multiple, run, zeroed
from unnoise.networks.norm import GroupNorm
from unnoise.networks.unet import ResidualBlock, Upsample


@dataclass(frozen=True)
class SDUNetConfig:
    """channels: of the picture; vector_dim, token_dim, picture_channels: of the condition.

    For every level, the finest first, widths: channels; depths: blocks of its transformers, 0 for none; heads: of their attention.
    blocks: residual blocks a level. middle: blocks of the transformer in the middle.
    """

    channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)
    middle: int = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)
    vector_dim: int = 0
    token_dim: int = 768
    groups: int = 32
    dropout: float = 0.0
    picture_channels: int = 0
    features: NoiseFeatures = Timesteps()

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.depths) == len(self.heads) > 0:
            raise ValueError(f"widths {self.widths}, depths {self.depths} and heads {self.heads} must be one for every level")
        for width, heads in zip(self.widths, self.heads):
            if width % self.groups or width % heads:
                raise ValueError(f"{width} channels do not divide into {self.groups} groups and {heads} heads")

    def build(self) -> "SDUNet":
        return SDUNet(self)


class Attention(nn.Module):
    """To the tokens of a context, which for self-attention are its own. Where all are masked, the answer is 0."""

    def __init__(self, dim: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(dim, dim, bias=False), nn.Linear(context_dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, dim), context (B, L, context_dim), mask (B, L), None where all count -> (B, N, dim)."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).transpose(1, 3).unbind(2)
        if mask is None:
            attended = attend(q, k, v)
        else:
            some = mask.any(1, keepdim=True)
            attended = attend(q, k, v, mask | ~some) * some[:, :, None, None].to(v.dtype)
        return self.out(attended.transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim, heads, dim)
        self.norm2, self.words = nn.LayerNorm(dim), Attention(dim, heads, token_dim)
        self.norm3, self.hidden, self.out = nn.LayerNorm(dim), nn.Linear(dim, 8 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm1(x)
        x = x + self.attention(h, h)
        x = x + self.words(self.norm2(x), tokens, mask)
        a, b = self.hidden(self.norm3(x)).chunk(2, -1)
        return x + self.out(a * gelu(b))


class Transformer(nn.Module):
    """Over the positions of a picture, added to it."""

    def __init__(self, dim: int, heads: int, depth: int, token_dim: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, dim, eps=1e-6)
        self.enter, self.leave = nn.Linear(dim, dim), zeroed(nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, token_dim) for _ in range(depth))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, C, H, W) -> the same."""
        h = self.enter(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.blocks:
            h = block(h, tokens, mask)
        return x + self.leave(h).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Level(nn.Module):
    """Residual blocks of one level on the way down or up, with a transformer behind each if depth is not 0."""

    def __init__(self, inputs: list[int], level: int, config: SDUNetConfig, resample: nn.Module | None) -> None:
        super().__init__()
        dim, heads, depth = config.widths[level], config.heads[level], config.depths[level]
        self.residuals = nn.ModuleList(_residual(c, dim, config) for c in inputs)
        self.transformers = nn.ModuleList(
            Transformer(dim, heads, depth, config.token_dim, config.groups) for _ in inputs if depth > 0
        )
        self.resample = resample

    def forward(
        self, h: Tensor, skips: list[Tensor], emb: Tensor, tokens: Tensor, mask: Tensor | None, checkpointing: bool
    ) -> list[Tensor]:
        """What comes after each block, and after resampling. skips: laid beside the input of each block; none on the way down."""
        out = []
        for i, residual in enumerate(self.residuals):
            h = run(residual, checkpointing, torch.cat([h, skips[i]], 1) if skips else h, emb)
            if len(self.transformers):
                h = run(self.transformers[i], checkpointing, h, tokens, mask)
            out.append(h)
        return out if self.resample is None else [*out, self.resample(h)]


class Middle(nn.Module):
    def __init__(self, config: SDUNetConfig) -> None:
        super().__init__()
        dim = config.widths[-1]
        self.residuals = nn.ModuleList(_residual(dim, dim, config) for _ in range(2))
        self.transformers = nn.ModuleList([Transformer(dim, config.heads[-1], config.middle, config.token_dim, config.groups)])

    def forward(self, h: Tensor, emb: Tensor, tokens: Tensor, mask: Tensor | None, checkpointing: bool) -> Tensor:
        h = run(self.residuals[0], checkpointing, h, emb)
        h = run(self.transformers[0], checkpointing, h, tokens, mask)
        return run(self.residuals[1], checkpointing, h, emb)


def _residual(c_in: int, c_out: int, config: SDUNetConfig) -> ResidualBlock:
    return ResidualBlock(c_in, c_out, 4 * config.widths[0], config.groups, config.dropout, scale_shift=False)


class SDUNet(nn.Module):
    """Set `checkpointing` to trade time for memory in training."""

    def __init__(self, config: SDUNetConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        widths, n = config.widths, config.blocks
        levels = range(len(widths))
        self.embedding = EmbeddingSum(config.features, widths[0], 4 * widths[0], config.vector_dim)
        self.first = nn.Conv2d(config.channels + config.picture_channels, widths[0], 3, padding=1)
        self.down, skips = nn.ModuleList(), [widths[0]]
        for level in levels:
            w, last = widths[level], level == levels[-1]
            inputs = [skips[-1]] + [w] * (n - 1)
            self.down.append(Level(inputs, level, config, None if last else nn.Conv2d(w, w, 3, stride=2, padding=1)))
            skips += [w] * (n if last else n + 1)
        self.middle = Middle(config)
        self.up, c = nn.ModuleList(), widths[-1]
        for level in reversed(levels):
            w = widths[level]
            inputs = [before + skips.pop() for before in [c] + [w] * n]
            self.up.append(Level(inputs, level, config, Upsample(w) if level else None))
            c = w
        self.norm = GroupNorm(config.groups, widths[0])
        self.last = zeroed(nn.Conv2d(widths[0], config.channels, 3, padding=1))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W), noise_level (B,), cond: `vector` (B, vector_dim), `tokens` (B, L, token_dim), `mask` (B, L),
        `picture` (B, picture_channels, H, W) -> as x.

        Absent entries count as zeros, and absent tokens as none.
        """
        height, width = x.shape[-2:]
        dtype, checkpointing = self.last.weight.dtype, self.checkpointing
        emb = silu(self.embedding(noise_level, cond.get("vector")))
        tokens, mask = self._words(cond, x.new_zeros(len(x), 1, self.config.token_dim, dtype=dtype))
        h = pad_to_multiple(beside(x.to(dtype), cond, self.config.picture_channels), 2 ** (len(self.down) - 1))
        h = self.first(h)
        skips = [h]
        for level in self.down:
            skips += level(h, [], emb, tokens, mask, checkpointing)
            h = skips[-1]
        h = self.middle(h, emb, tokens, mask, checkpointing)
        for level in self.up:
            mine = [skips.pop() for _ in range(self.config.blocks + 1)]
            h = level(h, mine, emb, tokens, mask, checkpointing)[-1]
        return self.last(silu(self.norm(h)))[..., :height, :width].to(x.dtype)

    def _words(self, cond: Mapping[str, Tensor], nothing: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, L, token_dim), at least one, and which of them count: None for all."""
        context = context_of(cond, nothing.dtype)
        if context is None or context[0].shape[1] == 0:
            return nothing, torch.zeros_like(nothing[..., 0], dtype=torch.bool)
        return context[0], context[1] if "mask" in cond else None

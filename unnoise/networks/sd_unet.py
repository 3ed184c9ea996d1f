"""The U-Net of Stable Diffusion 1, 2 and XL (Rombach et al. 2021, 2112.10752, section 3.3; Podell et al. 2023, 2307.01952).

DDPM's residual blocks (`unet`); behind each, at levels that have them, a transformer over the positions, whose blocks are

    x <- x + attention(LN(x)),   x <- x + attention(LN(x), words),   x <- x + W2 (a * gelu(b)),  (a, b) = W1 LN(x)    (GEGLU)

What XL is told beside its words - a summary of them, and the Fourier features of sizes and crop (`embedding.size_features`) - is
`vector`. Level i works on 1 / 2^i of the size, rounded up; on the way up each level has the size that it had on the way down.

Adapters (`steering`) add residuals of three kinds: to what each block hands over to the way up (`skip`), behind the middle
(`middle`), and on the way down, at the end of a level (`level`): before it is halved where it has transformers, else after, as
T2I-Adapters were trained. Picture prompts are seen by the attention to words: out(attend(q, words) + sum attend(q, pictures)).
"""

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from unnoise.networks.attention import SelfAttending, attend_if_any
from unnoise.networks.embedding import EmbeddingSum, NoiseFeatures, Timesteps, guidance_features
from unnoise.networks.layers import beside, context_of, run, zeroed
from unnoise.networks.norm import GroupNorm
from unnoise.networks.steering import Shown, found, pictures_by_layer, steered
from unnoise.networks.unet import ResidualBlock, Upsample


@dataclass(frozen=True)
class SDUNetConfig:
    """channels: of the picture; vector_dim, token_dim, picture_channels: of the condition.

    For every level, the finest first, widths: channels; depths: blocks of its transformers, 0 for none; heads: of their attention.
    blocks: residual blocks a level. middle: blocks of the transformer between the middle's two residual blocks; 0 for one residual
    block alone, None for no middle. Depths may be several, one for each transformer of a level in their order, on the way down and,
    with one more, on the way up (up_depths; the same as depths unless given): SSD-1B (Gupta et al. 2024, 2401.02677).
    guidance_dim: features of the guidance scale that consistency students are told (`embedding.guidance_features`), an even number
    above 2; 0 for none. upcast_attention: that scores of attention overflow float16, in which nothing is computed here: for those
    who read what is exported.
    """

    channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    depths: tuple[int | tuple[int, ...], ...] = (1, 1, 1, 0)
    middle: int | None = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)
    vector_dim: int = 0
    token_dim: int = 768
    groups: int = 32
    dropout: float = 0.0
    picture_channels: int = 0
    guidance_dim: int = 0
    features: NoiseFeatures = Timesteps()
    up_depths: tuple[int | tuple[int, ...], ...] | None = None
    upcast_attention: bool = False

    def __post_init__(self) -> None:
        for each, n in ((self.depths, self.blocks), (self.up_depths or (), self.blocks + 1)):
            if any(isinstance(depth, tuple) and len(depth) != n for depth in each):
                raise ValueError(f"depths {each}: one number for a level, or {n} of its transformers")
        if self.up_depths is not None and len(self.up_depths) != len(self.depths):
            raise ValueError(f"depths {self.depths} down and {self.up_depths} up must be of as many levels")
        if self.up_depths is None and any(isinstance(depth, tuple) for depth in self.depths):
            raise ValueError(f"depths {self.depths} down: those on the way up (up_depths) are one more a level, and are to be said")
        if not len(self.widths) == len(self.depths) == len(self.heads) > 0:
            raise ValueError(f"widths {self.widths}, depths {self.depths} and heads {self.heads} must be one for every level")
        for width, heads in zip(self.widths, self.heads):
            if width % self.groups or width % heads:
                raise ValueError(f"{width} channels do not divide into {self.groups} groups and {heads} heads")
        if self.guidance_dim % 2 or self.guidance_dim == 2 or self.guidance_dim < 0:
            raise ValueError(f"guidance_dim {self.guidance_dim} must be 0, or an even number above 2")

    def build(self) -> "SDUNet":
        return SDUNet(self)


class Heard(NamedTuple):
    """tokens (B, L, token_dim); mask (B, L), None where all count; pictures: what each layer sees of picture prompts."""

    tokens: Tensor
    mask: Tensor | None
    pictures: Mapping[int, Sequence[Shown]]


class SelfAttention(SelfAttending):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> the same."""
        k, v = self.kv(x).chunk(2, -1)
        attended = self.attend(*(_split(a, self.heads) for a in (self.q(x), k, v)))
        return self.out(attended.transpose(1, 2).flatten(2))


class WordAttention(nn.Module):
    """To words, and in softmaxes of their own to picture prompts. Where all words are masked, their answer is 0."""

    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(dim, dim, bias=False), nn.Linear(token_dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, heard: Heard, pictures: Sequence[Shown]) -> Tensor:
        """x (B, N, dim) -> the same."""
        q = _split(self.q(x), self.heads)
        k, v = (_split(a, self.heads) for a in self.kv(heard.tokens).chunk(2, -1))
        attended = sum(found(q, pictures), attend_if_any(q, k, v, heard.mask))
        return self.out(attended.transpose(1, 2).flatten(2))


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, N, dim) -> (B, heads, N, dim / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class TransformerBlock(nn.Module):
    """number: by which picture prompts know the layer."""

    def __init__(self, dim: int, heads: int, token_dim: int) -> None:
        super().__init__()
        self.number = 0
        self.norm1, self.attention = nn.LayerNorm(dim), SelfAttention(dim, heads)
        self.norm2, self.words = nn.LayerNorm(dim), WordAttention(dim, heads, token_dim)
        self.norm3, self.hidden, self.out = nn.LayerNorm(dim), nn.Linear(dim, 8 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, heard: Heard) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.words(self.norm2(x), heard, heard.pictures.get(self.number, ()))
        a, b = self.hidden(self.norm3(x)).chunk(2, -1)
        return x + self.out(a * gelu(b))


class Transformer(nn.Module):
    """Over the positions of a picture, added to it."""

    def __init__(self, dim: int, heads: int, depth: int, token_dim: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, dim, eps=1e-6)
        self.enter, self.leave = nn.Linear(dim, dim), zeroed(nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(TransformerBlock(dim, heads, token_dim) for _ in range(depth))

    def forward(self, x: Tensor, heard: Heard) -> Tensor:
        """(B, C, H, W) -> the same."""
        h = self.enter(self.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.blocks:
            h = block(h, heard)
        return x + self.leave(h).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


class Told(NamedTuple):
    """What every block is told. emb (B, 4 width); cond: the whole condition, for the residuals in it."""

    emb: Tensor
    heard: Heard
    cond: Mapping[str, Tensor]


class Level(nn.Module, ABC):
    """Residual blocks of one level on the way down or up, with a transformer behind each if depth is not 0."""

    def __init__(
        self, inputs: list[int], level: int, depth: int | tuple[int, ...], config: SDUNetConfig, resample: nn.Module | None
    ) -> None:
        super().__init__()
        dim, heads = config.widths[level], config.heads[level]
        depths = (depth,) * len(inputs) if isinstance(depth, int) else depth
        self.residuals = nn.ModuleList(_residual(c, dim, config) for c in inputs)
        self.transformers = nn.ModuleList(Transformer(dim, heads, d, config.token_dim, config.groups) for d in depths if depth != 0)
        self.resample = resample

    def block(self, i: int, h: Tensor, told: Told, checkpointing: bool) -> Tensor:
        h = run(self.residuals[i], checkpointing, h, told.emb)
        return run(self.transformers[i], checkpointing, h, told.heard) if len(self.transformers) else h


class DownLevel(Level):
    def forward(self, h: Tensor, number: int, told: Told, checkpointing: bool) -> list[Tensor]:
        """What comes after each block, and after halving."""
        out: list[Tensor] = []
        for i in range(len(self.residuals)):
            out.append(h := self.block(i, h, told, checkpointing))
        if self.transformers:
            out[-1] = steered(out[-1], told.cond, "level", number)
        if self.resample is not None:
            out.append(self.resample(out[-1]))
        return out if self.transformers else [*out[:-1], steered(out[-1], told.cond, "level", number)]


class UpLevel(Level):
    def forward(self, h: Tensor, skips: list[Tensor], told: Told, checkpointing: bool) -> Tensor:
        """skips: laid beside the input of each block, the last one first; taken from the list. The next one says the size to go
        on in."""
        for i in range(len(self.residuals)):
            h = self.block(i, torch.cat([h, skips.pop()], 1), told, checkpointing)
        return h if self.resample is None else self.resample(h, skips[-1].shape[-2:])


class Middle(nn.Module):
    def __init__(self, config: SDUNetConfig) -> None:
        super().__init__()
        dim, depth = config.widths[-1], config.middle
        self.residuals = nn.ModuleList(_residual(dim, dim, config) for _ in range(0 if depth is None else 2 if depth else 1))
        self.transformers = nn.ModuleList(
            Transformer(dim, config.heads[-1], depth, config.token_dim, config.groups) for _ in range(1) if depth
        )

    def forward(self, h: Tensor, told: Told, checkpointing: bool) -> Tensor:
        for residual in self.residuals[:1]:
            h = run(residual, checkpointing, h, told.emb)
        for transformer, residual in zip(self.transformers, self.residuals[1:]):
            h = run(transformer, checkpointing, h, told.heard)
            h = run(residual, checkpointing, h, told.emb)
        return h


def _residual(c_in: int, c_out: int, config: SDUNetConfig) -> ResidualBlock:
    return ResidualBlock(c_in, c_out, 4 * config.widths[0], config.groups, config.dropout, scale_shift=False)


class SDEncoder(nn.Module, ABC):
    """The way down and the middle, which a ControlNet has too. skip_widths: channels of what is handed over to the way up."""

    def __init__(self, config: SDUNetConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        widths, n = config.widths, config.blocks
        self.embedding = EmbeddingSum(config.features, widths[0], 4 * widths[0], config.vector_dim)
        self.guidance = zeroed(nn.Linear(config.guidance_dim, widths[0], bias=False)) if config.guidance_dim else None
        self.first = nn.Conv2d(config.channels + config.picture_channels, widths[0], 3, padding=1)
        self.down, self.skip_widths = nn.ModuleList(), [widths[0]]
        for level, w in enumerate(widths):
            last = level == len(widths) - 1
            inputs = [self.skip_widths[-1]] + [w] * (n - 1)
            halving = None if last else nn.Conv2d(w, w, 3, stride=2, padding=1)
            self.down.append(DownLevel(inputs, level, config.depths[level], config, halving))
            self.skip_widths += [w] * (n if last else n + 1)
        self.middle = Middle(config)

    def encode(
        self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor], hint: Tensor | None = None, kind: Tensor | None = None
    ) -> tuple[Told, list[Tensor], Tensor]:
        """What all blocks are told, what each of them hands over, and what leaves the middle. Arguments as SDUNet's.

        hint (B, widths[0], H, W): added to what the first layer makes of x. kind (B, 4 widths[0]): to the embedding of noise level
        and vector.
        """
        told, first = self.begin(x, noise_level, cond, hint, kind)
        return told, *self.descend(told, first)

    def begin(
        self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor], hint: Tensor | None = None, kind: Tensor | None = None
    ) -> tuple[Told, Tensor]:
        """What all blocks are told, and what the first layer makes of x. Arguments as `encode`'s."""
        dtype = self.first.weight.dtype
        emb = self.embedding(noise_level, cond.get("vector"), more=self._scale(noise_level, cond))
        emb = silu(emb if kind is None else emb + kind)
        told = Told(emb, self._heard(cond, x.new_zeros(len(x), 1, self.config.token_dim, dtype=dtype)), cond)
        h = self.first(beside(x.to(dtype), cond, self.config.picture_channels))
        return told, h if hint is None else h + hint.to(dtype)

    def _scale(self, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor | None:
        """What the guidance scale adds to the features of the noise level (B, widths[0])."""
        if self.guidance is None:
            return None
        scale = cond["guidance"] if "guidance" in cond else torch.ones_like(noise_level)
        return self.guidance(guidance_features(scale, self.config.guidance_dim).to(self.guidance.weight.dtype))

    def descend(self, told: Told, first: Tensor) -> tuple[list[Tensor], Tensor]:
        """What each block hands over, and what leaves the middle."""
        skips = [first]
        for i, level in enumerate(self.down):
            skips += level(skips[-1], i, told, self.checkpointing)
        return skips, self.middle(skips[-1], told, self.checkpointing)

    def _heard(self, cond: Mapping[str, Tensor], nothing: Tensor) -> Heard:
        """At least one token a row."""
        pictures = pictures_by_layer(cond, nothing.dtype)
        context = context_of(cond, nothing.dtype)
        if context is None or context[0].shape[1] == 0:
            return Heard(nothing, torch.zeros_like(nothing[..., 0], dtype=torch.bool), pictures)
        return Heard(context[0], context[1] if "mask" in cond else None, pictures)


class Entered(NamedTuple):
    """first: what the first layer makes of x."""

    told: Told
    first: Tensor
    x: Tensor

    @property
    def base(self) -> None:
        return None


class SDUNet(SDEncoder):
    """Set `checkpointing` to trade time for memory in training."""

    def __init__(self, config: SDUNetConfig) -> None:
        super().__init__(config)
        widths, skips = config.widths, list(self.skip_widths)
        self.places = {"skip": len(skips), "middle": 1, "level": len(widths)}
        self.up, c = nn.ModuleList(), widths[-1]
        for level, w in reversed(list(enumerate(widths))):
            inputs = [before + skips.pop() for before in [c] + [w] * config.blocks]
            depth = (config.up_depths or config.depths)[level]
            self.up.append(UpLevel(inputs, level, depth, config, Upsample(w) if level else None))
            c = w
        self.norm = GroupNorm(config.groups, widths[0])
        self.last = zeroed(nn.Conv2d(widths[0], config.channels, 3, padding=1))
        self.token_dim = config.token_dim
        layers = [m for part in (self.down, self.up, self.middle) for m in part.modules() if isinstance(m, TransformerBlock)]
        for i, layer in enumerate(layers):  # counted as IP-Adapters do: down, up, middle
            layer.number = i
        self.picture_widths = [layer.words.out.out_features for layer in layers]

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W), noise_level (B,), cond: `vector` (B, vector_dim), `tokens` (B, L, token_dim), `mask` (B, L),
        `picture` (B, picture_channels, H, W), and what adapters add (`steering`) -> as x.

        Absent entries count as zeros, and absent tokens as none.
        """
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> "Entered":
        """Arguments as forward's."""
        return Entered(*self.begin(x, noise_level, cond), x)

    def deep(self, entered: "Entered") -> Tensor:
        """What the last block of the way up sees beside the first layer's features."""
        told, first, _ = entered
        skips, h = self.descend(told, first)
        skips = [steered(skip, told.cond, "skip", i) for i, skip in enumerate(skips)]
        h = steered(h, told.cond, "middle", 0)
        for level in self.up[:-1]:
            h = level(h, skips, told, self.checkpointing)
        for i in range(self.config.blocks):
            h = self.finest.block(i, torch.cat([h, skips.pop()], 1), told, self.checkpointing)
        return h

    def leave(self, entered: "Entered", deep: Tensor) -> Tensor:
        told, first, x = entered
        h = torch.cat([deep, steered(first, told.cond, "skip", 0)], 1)
        h = self.finest.block(self.config.blocks, h, told, self.checkpointing)
        return self.last(silu(self.norm(h))).to(x.dtype)

    @property
    def finest(self) -> UpLevel:
        """The last level of the way up."""
        level = self.up[-1]
        assert isinstance(level, UpLevel)
        return level

    @property
    def blocks(self) -> list[nn.Module]:
        """Its transformers, in the order in which they run: down, middle, up."""
        return [t for part in (*self.down, self.middle, *self.up) for t in part.transformers]

    @property
    def central(self) -> int:
        """Which of the blocks is the middle, or nearest to it."""
        blocks = self.blocks
        return next((i for i, b in enumerate(blocks) if any(b is t for t in self.middle.transformers)), len(blocks) // 2)

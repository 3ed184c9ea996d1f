"""The multimodal diffusion transformer of Stable Diffusion 3 and 3.5 (Esser et al. 2024, 2403.03206, section 4).

Patches of the picture and tokens of the words run through joint blocks (`mmdit`). Absolute positions, sines and cosines, are added
to the patches, cropped from the middle of a square of them, so that pictures of any shape lie around one centre.
Adapters (`steering`) add residuals to the picture's tokens behind each block but the last (`block`).
Picture prompts are seen by every block, whose numbers are theirs.
"""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from unnoise.networks.embedding import EmbeddingSum, NoiseFeatures, Timesteps, sincos_stretched
from unnoise.networks.layers import beside, context_of, pad_to_multiple, run, unpatchify, zeroed
from unnoise.networks.mmdit import JointBlock, LastJointBlock, modulated
from unnoise.networks.steering import pictures_by_layer, steered, with_picture_tokens


@dataclass(frozen=True)
class SD3Config:
    """channels: of the picture; patch: its side in pixels; vector_dim, token_dim, picture_channels: of the condition.

    width: of a token, divisible by 4 and by heads. norm_qk: normalise queries and keys (SD3.5). dual: the blocks, from 0 on, in
    which the picture also attends to itself alone. positions: patches along the longest side that a picture may have.
    unit: patches over which coordinates run from 0 to `unit`, the side that the model was trained on.
    """

    channels: int = 16
    patch: int = 2
    width: int = 1536
    depth: int = 24
    heads: int = 24
    vector_dim: int = 2048
    token_dim: int = 4096
    norm_qk: bool = False
    dual: tuple[int, ...] = ()
    positions: int = 192
    unit: int = 64
    picture_channels: int = 0
    features: NoiseFeatures = Timesteps()

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} must be divisible by 4 and by {self.heads} heads")
        if not all(0 <= i < self.depth for i in self.dual):
            raise ValueError(f"dual attention in the blocks {self.dual}: this network has the blocks 0 to {self.depth - 1}")

    def build(self) -> "SD3":
        return SD3(self)


class SD3Stem(nn.Module, ABC):
    """What stands before the blocks, in a ControlNet too. `checkpointing` trades time for memory in training."""

    positions: Tensor

    def __init__(self, config: SD3Config) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        c_in, width, p = config.channels + config.picture_channels, config.width, config.patch
        self.patches = nn.Conv2d(c_in, width, p, stride=p)
        self.largest = config.positions * p  # side of a state
        self.register_buffer("positions", sincos_stretched(config.positions, config.positions, config.unit, width)[None])
        self.embedding = EmbeddingSum(config.features, 256, width, config.vector_dim)
        self.tokens = nn.Linear(config.token_dim, width)

    def patched(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, int, int]:
        """Patches with their positions (B, N, width), and how many rows and columns of them. Arguments as SD3's."""
        p, n, dtype = self.config.patch, self.config.positions, self.patches.weight.dtype
        h = self.patches(pad_to_multiple(beside(x.to(dtype), cond, self.config.picture_channels), p))
        rows, columns = h.shape[-2:]
        if max(rows, columns) > n:
            raise ValueError(f"a picture of {rows} x {columns} patches; this network has positions for {n} x {n}")
        top, left = (n - rows) // 2, (n - columns) // 2
        where = self.positions.to(dtype).unflatten(1, (n, n))[:, top : top + rows, left : left + columns]
        return h.flatten(2).transpose(1, 2) + where.flatten(1, 2), rows, columns

    def summary(self, noise_level: Tensor, vector: Tensor | None) -> Tensor:
        """What modulates every block: (B, width)."""
        return silu(self.embedding(noise_level, vector))


class SD3(SD3Stem):
    """Set `checkpointing` to trade time for memory in training."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__(config)
        self.places = {"block": config.depth - 1}
        kinds = [JointBlock] * (config.depth - 1) + [LastJointBlock]
        self.blocks = nn.ModuleList(
            kind(config.width, config.heads, config.norm_qk, i in config.dual) for i, kind in enumerate(kinds)
        )
        self.modulation = zeroed(nn.Linear(config.width, 2 * config.width))
        self.out = zeroed(nn.Linear(config.width, config.channels * config.patch**2))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W), noise_level (B,), cond: `vector` (B, vector_dim), `tokens` (B, L, token_dim), `mask` (B, L),
        `picture` (B, picture_channels, H, W), and what adapters add (`steering`) -> as x.

        Absent entries count as zeros, and absent tokens as none. Raises ValueError for a picture of more than `positions` patches
        along a side.
        """
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> "Entered":
        """Arguments as forward's."""
        h, rows, columns = self.patched(x, cond)
        words, mask = words_and_mask(cond, self.tokens, h)
        return Entered(h, words, mask, self.summary(noise_level, cond.get("vector")), rows, columns, x, cond)

    def deep(self, entered: "Entered") -> Tensor:
        h, words, mask, c, *_, cond = entered
        pictures = pictures_by_layer(cond, h.dtype)
        for i, block in enumerate(self.blocks):
            h, words = run(block, self.checkpointing, h, words, c, mask, pictures.get(i, ()))
            h = steered(h, cond, "block", i)
        return h

    def leave(self, entered: "Entered", deep: Tensor) -> Tensor:
        *_, c, rows, columns, x, _ = entered
        (height, width), p = x.shape[-2:], self.config.patch
        scale, shift = self.modulation(c).chunk(2, -1)
        h = self.out(modulated(deep, shift, scale))
        h = h.unflatten(-1, (p * p, -1)).transpose(-1, -2).flatten(-2)  # its weights have a patch's channels last
        return unpatchify(h, rows, columns, p)[..., :height, :width].to(x.dtype)


class Entered(NamedTuple):
    """Patches h (B, N, width), in rows and columns, of the picture x; words (B, L, width); mask (B, L + N); c (B, width)."""

    h: Tensor
    words: Tensor
    mask: Tensor | None
    c: Tensor
    rows: int
    columns: int
    x: Tensor
    cond: Mapping[str, Tensor]

    @property
    def base(self) -> Tensor:
        return self.h


def words_and_mask(cond: Mapping[str, Tensor], project: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """The words (B, L, width), and pictures among them (`steering`), none where there are none, and which of L + N tokens count:
    None for all. x (B, N, width)."""
    cond = with_picture_tokens(cond)
    context = context_of(cond, x.dtype)
    if context is None:
        return x[:, :0], None
    tokens, mask = context
    return project(tokens), torch.cat([mask, mask.new_ones(x.shape[:2])], 1) if "mask" in cond else None

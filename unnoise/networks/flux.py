"""The transformer of FLUX.1 (Black Forest Labs 2024): joint blocks, then single blocks (`mmdit`), positions rotary on three axes.

Words lie at (0, 0, 0), the patch in row y and column x at (0, y, x). A network distilled from guided sampling is told the scale.
A picture to look at while another is drawn (Kontext, Batifol et al. 2025, 2506.15742) is read behind that one, at (1, y, x).
Adapters (`steering`) add residuals to the picture's tokens behind each joint block (`block`) and each single one (`single`).
Picture prompts are seen by the joint blocks, whose numbers are theirs.
"""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from unnoise.networks.embedding import EmbeddingSum, NoiseFeatures, Timesteps, rotary_axes
from unnoise.networks.layers import beside, pad_to_multiple, patchify, run, unpatchify, zeroed
from unnoise.networks.mmdit import JointBlock, SingleBlock, modulated
from unnoise.networks.sd3 import Entered, words_and_mask
from unnoise.networks.steering import pictures_by_layer, residual, steered


@dataclass(frozen=True)
class FluxConfig:
    """channels: of the picture; patch: its side in pixels; vector_dim, token_dim, picture_channels: of the condition.

    joint and single: the number of blocks of each kind. axes: channels of a head that turn with each axis; they add up to
    width / heads. guidance: whether the network is told the guidance scale.
    """

    channels: int = 16
    patch: int = 2
    width: int = 3072
    joint: int = 19
    single: int = 38
    heads: int = 24
    axes: tuple[int, int, int] = (16, 56, 56)
    vector_dim: int = 768
    token_dim: int = 4096
    guidance: bool = False
    picture_channels: int = 0
    features: NoiseFeatures = Timesteps()

    def __post_init__(self) -> None:
        if sum(self.axes) * self.heads != self.width or any(a % 2 for a in self.axes):
            raise ValueError(f"axes {self.axes} must be even and add up to {self.width} / {self.heads}, width by heads")

    def build(self) -> "Flux":
        return Flux(self)


class FluxStem(nn.Module, ABC):
    """All but the last layer, which a ControlNet has too. `checkpointing` trades time for memory in training."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        width, area = config.width, config.patch**2
        self.patches = nn.Linear((config.channels + config.picture_channels) * area, width)
        self.embedding = EmbeddingSum(config.features, 256, width, config.vector_dim, config.guidance)
        self.tokens = nn.Linear(config.token_dim, width)
        self.blocks = nn.ModuleList(JointBlock(width, config.heads, norm_qk=True) for _ in range(config.joint))
        self.singles = nn.ModuleList(SingleBlock(width, config.heads) for _ in range(config.single))

    def patched(self, x: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, int, int]:
        """Patches (B, N, width), and how many rows and columns of them. Arguments as Flux's."""
        p = self.config.patch
        h = pad_to_multiple(beside(x.to(self.patches.weight.dtype), cond, self.config.picture_channels), p)
        return self.patches(patchify(h, p)), h.shape[-2] // p, h.shape[-1] // p

    def summary(self, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """What modulates every block: (B, width)."""
        return silu(self.embedding(noise_level, cond.get("vector"), cond.get("guidance")))


class Flux(FluxStem):
    """Set `checkpointing` to trade time for memory in training."""

    def __init__(self, config: FluxConfig) -> None:
        super().__init__(config)
        self.places = {"block": config.joint, "single": config.single}
        self.picture_widths, self.token_dim = [config.width] * config.joint, config.token_dim
        self.modulation = zeroed(nn.Linear(config.width, 2 * config.width))
        self.out = zeroed(nn.Linear(config.width, config.channels * config.patch**2))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W), noise_level (B,), cond: `vector` (B, vector_dim), `tokens` (B, L, token_dim), `mask` (B, L),
        `picture` (B, picture_channels, H, W), `context` (B, C, H', W'), `guidance` (B,), and what adapters add
        (`steering`) -> as x.

        Absent entries count as zeros, absent tokens as none, an absent guidance as 1: plainly conditional.
        """
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Entered:
        """Arguments as forward's."""
        h, rows, columns = self.patched(x, cond)
        words, mask = words_and_mask(cond, self.tokens, h)
        return Entered(h, words, mask, self.summary(noise_level, cond), rows, columns, x, cond)

    def deep(self, entered: Entered) -> Tensor:
        h, words, mask, c, rows, columns, _, cond = entered
        places, pictures = where(words.shape[1], rows, columns, h.device), pictures_by_layer(cond, h.dtype)
        drawn, said, seen = h.shape[1], words.shape[1], 0
        if "context" in cond:  # between the words and what is drawn
            picture, rows, columns = self.patched(cond["context"], {})
            seen, h = picture.shape[1], torch.cat([picture, h], 1)
            places = torch.cat([places[:said], where(0, rows, columns, h.device, picture=1), places[said:]])
            mask = None if mask is None else torch.cat([pad(mask[:, :said], (0, seen), value=True), mask[:, said:]], 1)
        own, behind = slice(seen, seen + drawn), slice(said + seen, said + seen + drawn)
        rotary = rotary_axes(places, self.config.axes)
        for i, block in enumerate(self.blocks):
            h, words = run(block, self.checkpointing, h, words, c, mask, pictures.get(i, ()), rotary, seen)
            h = _steered(h, cond, "block", i, own)
        z = torch.cat([words, h], 1)
        for i, block in enumerate(self.singles):
            z = _steered(run(block, self.checkpointing, z, c, mask, rotary), cond, "single", i, behind)
        return z[:, behind]

    def leave(self, entered: Entered, deep: Tensor) -> Tensor:
        *_, c, rows, columns, x, _ = entered
        height, width = x.shape[-2:]
        scale, shift = self.modulation(c).chunk(2, -1)
        h = self.out(modulated(deep, shift, scale))
        return unpatchify(h, rows, columns, self.config.patch)[..., :height, :width].to(x.dtype)


def _steered(z: Tensor, cond: Mapping[str, Tensor], kind: str, number: int, drawn: slice) -> Tensor:
    """`steered`, of the tokens alone that are drawn: z (B, M, width)."""
    if residual(kind, number) not in cond:
        return z
    return torch.cat([z[:, : drawn.start], steered(z[:, drawn], cond, kind, number), z[:, drawn.stop :]], 1)


def where(words: int, rows: int, columns: int, device: torch.device, picture: int = 0) -> Tensor:
    """The three coordinates of every token, words first: (words + rows * columns, 3). picture: its number, the first of them."""
    y, x = torch.arange(rows, device=device), torch.arange(columns, device=device)
    first = torch.full((rows * columns,), float(picture), device=device)
    patches = torch.stack([first, y.repeat_interleave(columns), x.repeat(rows)], 1)
    return torch.cat([torch.zeros(words, 3, device=device), patches])

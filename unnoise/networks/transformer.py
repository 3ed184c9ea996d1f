"""A plain diffusion transformer for pictures of any size, seen in training or not, square or not.

After DiT (Peebles & Xie 2022, 2212.09748: adaLN-zero) and JiT (Li & He 2025, 2511.13720: low-rank patch embedding, RMSNorm,
rotary positions, SwiGLU, QK-norm). Words are further keys and values of every block: they cost no queries and no MLP.
Patches see the words as lying at the centre of the picture, where rotary positions have their origin.

A middle head, like the last one, says after block `head_at` what the network believes so far: a weaker guess at the same, learnt
along and all but free, which internal guidance leads away from (Zhou et al. 2025, 2512.24176).

Routing (TREAD, Krause et al. 2025, 2501.04765): in training a random half of the patches, the same in the whole batch, skips the
blocks `routed` and joins the others again behind them. Out of training every patch goes through every block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from unnoise.networks.embedding import Fourier, NoiseEmbedding, NoiseFeatures, rotary_2d, sincos_2d
from unnoise.networks.layers import ModulatedBlock, context_of, modulated_norm, pad_to_multiple, patchify, run, unpatchify, zeroed


@dataclass(frozen=True)
class DiffusionTransformerConfig:
    """channels: of the picture; patch: its side in pixels; vector_dim, token_dim and picture_channels: of the
    condition, 0 for none.

    `bottleneck` is the rank of the patch embedding, where a patch has more numbers than that. width / heads must be
    divisible by 4. head_at: the number of blocks before the middle head; 0 for no such head.
    routed: (first, last), the blocks first to last - 1, counted from 0, that half of the patches skip in training; (0, 0) for none.
    """

    channels: int
    patch: int = 2
    width: int = 256
    depth: int = 8
    heads: int = 4
    bottleneck: int = 128
    vector_dim: int = 0
    token_dim: int = 0
    dropout: float = 0.0
    features: NoiseFeatures = Fourier()
    picture_channels: int = 0
    head_at: int = 0
    routed: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} / {self.heads} heads must be divisible by 4")
        if self.head_at and not 0 < self.head_at < self.depth:
            raise ValueError(f"a middle head after {self.head_at} of {self.depth} blocks: 1 to {self.depth - 1}, or 0 for none")
        first, last = self.routed
        if not 0 <= first <= last <= self.depth or first < self.head_at < last:
            raise ValueError(
                f"routed {self.routed}: blocks of the {self.depth} that rise, with no head (after {self.head_at}) among them"
            )

    def build(self) -> "DiffusionTransformer":
        return DiffusionTransformer(self)


def small(channels: int, patch: int = 2, *, vector_dim: int = 0, token_dim: int = 0) -> DiffusionTransformerConfig:
    """About 10M parameters: 8 layers of 256."""
    return DiffusionTransformerConfig(channels, patch, vector_dim=vector_dim, token_dim=token_dim)


def medium(channels: int, patch: int = 2, *, vector_dim: int = 0, token_dim: int = 0) -> DiffusionTransformerConfig:
    """About 33M parameters: 12 layers of 384."""
    return DiffusionTransformerConfig(channels, patch, 384, 12, 6, vector_dim=vector_dim, token_dim=token_dim)


class DiffusionTransformer(nn.Module):
    """Set `checkpointing` to trade time for memory in training."""

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        width, patch_dim = config.width, config.channels * config.patch**2
        self.embedding = NoiseEmbedding(config.features, width, width, config.vector_dim)
        if config.bottleneck < patch_dim:
            self.patches: nn.Module = nn.Sequential(
                nn.Linear(patch_dim, config.bottleneck, bias=False), nn.Linear(config.bottleneck, width)
            )
        else:
            self.patches = nn.Linear(patch_dim, width)
        # told nothing at first, so that a trained network that is given this layer goes on as it was
        picture_dim = config.picture_channels * config.patch**2
        self.picture = zeroed(nn.Linear(picture_dim, width, bias=False)) if picture_dim else None
        self.blocks = nn.ModuleList(
            ModulatedBlock(width, config.heads, config.token_dim, config.dropout) for _ in range(config.depth)
        )
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.out = zeroed(nn.Linear(width, patch_dim))
        self.middle_modulation = zeroed(nn.Linear(width, 2 * width)) if config.head_at else None
        self.middle_out = zeroed(nn.Linear(width, patch_dim)) if config.head_at else None

    @property
    def has_middle(self) -> bool:
        return self.middle_out is not None

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, C, H, W), noise_level (B,), cond: `vector` (B, vector_dim), `tokens` (B, L, token_dim), `mask` (B, L),
        `picture` (B, picture_channels, H, W) -> as x.

        Entries that this network was not built for are ignored, absent ones add nothing.
        """
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def both(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What `forward` gives, and what the middle head says. Raises ValueError where there is no such head."""
        if self.middle_modulation is None or self.middle_out is None:
            raise ValueError("this network has no middle head: its head_at is 0")
        entered = self.enter(x, noise_level, cond)
        h, middle = self._features(entered)
        return self.leave(entered, h), self._said(middle, entered.emb, self.middle_modulation, self.middle_out, x)

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> "Entered":
        """Arguments as forward's."""
        dtype, p = self.out.weight.dtype, self.config.patch
        h = pad_to_multiple(x.to(dtype), p)
        rows, columns = h.shape[-2] // p, h.shape[-1] // p
        emb = silu(self.embedding(noise_level, cond.get("vector")))
        rotary = rotary_2d(rows, columns, self.config.width // self.config.heads, x.device)
        context = context_of(cond, dtype) if self.config.token_dim else None

        h = self.patches(patchify(h, p))
        if self.picture is not None and "picture" in cond:
            h = h + self.picture(patchify(pad_to_multiple(cond["picture"].to(dtype), p), p))
        h = h + sincos_2d(rows, columns, self.config.width, x.device).to(h.dtype)
        return Entered(h, emb, rotary, context, x)

    def deep(self, entered: "Entered") -> Tensor:
        return self._features(entered)[0]

    def leave(self, entered: "Entered", deep: Tensor) -> Tensor:
        return self._said(deep, entered.emb, self.modulation, self.out, entered.x)

    def _features(self, entered: "Entered") -> tuple[Tensor, Tensor]:
        """Patches after the last block and after block `head_at`, each (B, N, width)."""
        h, emb, rotary, context, x = entered
        patches = h.shape[1]
        first, last = self.config.routed if self.training else (0, 0)
        chosen = torch.randperm(patches, device=x.device)[: -(-patches // 2)] if last > first else None
        middle = everyone = h
        for i, block in enumerate(self.blocks):
            if chosen is not None and i == first:
                everyone, h = h, h[:, chosen]
            turned = rotary if chosen is None or not first <= i < last else (rotary[0][chosen], rotary[1][chosen])
            h = run(block, self.checkpointing, h, emb, turned, context)
            if chosen is not None and i + 1 == last:
                h = everyone.index_copy(1, chosen, h.to(everyone.dtype))
            middle = h if i + 1 == self.config.head_at else middle
        return h, middle

    def _said(self, h: Tensor, emb: Tensor, modulation: nn.Module, out: nn.Module, like: Tensor) -> Tensor:
        """A head: patches (B, N, width) -> a picture of the size of `like`."""
        height, width = like.shape[-2:]
        p = self.config.patch
        scale, shift = modulation(emb).chunk(2, -1)
        h = out(modulated_norm(h, scale, shift))
        return unpatchify(h, -(-height // p), -(-width // p), p)[..., :height, :width].to(like.dtype)


class Entered(NamedTuple):
    """Patches h (B, N, width) of the picture x; emb (B, width); what positions turn by; tokens and their mask."""

    h: Tensor
    emb: Tensor
    rotary: tuple[Tensor, Tensor]
    context: tuple[Tensor, Tensor] | None
    x: Tensor

    @property
    def base(self) -> Tensor:
        return self.h

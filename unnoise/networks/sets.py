"""A transformer over a set: rows without an order, such as the boxes of a layout.

Nothing says where a row stands, so that a permutation of the rows permutes what comes out (Zaheer et al. 2017, 1703.06114; Lee et
al. 2019, 1810.00825); blocks and words are those of the picture transformer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import silu

from unnoise.networks.embedding import Fourier, NoiseEmbedding, NoiseFeatures
from unnoise.networks.layers import ModulatedBlock, context_of, modulated_norm, run, zeroed


@dataclass(frozen=True)
class SetTransformerConfig:
    """features: numbers a row; vector_dim and token_dim: of the condition, 0 for none."""

    features: int
    width: int = 128
    depth: int = 4
    heads: int = 4
    vector_dim: int = 0
    token_dim: int = 0
    noise: NoiseFeatures = Fourier()

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")

    def build(self) -> "SetTransformer":
        return SetTransformer(self)


class SetTransformer(nn.Module):
    """Set `checkpointing` to trade time for memory in training."""

    def __init__(self, config: SetTransformerConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        self.embedding = NoiseEmbedding(config.noise, config.width, config.width, config.vector_dim)
        self.first = nn.Linear(config.features, config.width)
        self.blocks = nn.ModuleList(ModulatedBlock(config.width, config.heads, config.token_dim) for _ in range(config.depth))
        self.modulation = zeroed(nn.Linear(config.width, 2 * config.width))
        self.last = zeroed(nn.Linear(config.width, config.features))

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        """x (B, K, features), noise_level (B,), cond: `vector` (B, vector_dim), `tokens` (B, L, token_dim), `mask` (B, L) -> as x.

        Entries that this network was not built for are ignored, absent ones add nothing.
        """
        dtype = self.last.weight.dtype
        emb = silu(self.embedding(noise_level, cond.get("vector")))
        context = context_of(cond, dtype) if self.config.token_dim else None
        h = self.first(x.to(dtype))
        for block in self.blocks:
            h = run(block, self.checkpointing, h, emb, None, context)
        scale, shift = self.modulation(emb).chunk(2, -1)
        return self.last(modulated_norm(h, scale, shift)).to(x.dtype)

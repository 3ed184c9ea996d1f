"""A small causal transformer over symbols: p(s_1 ... s_L | class) = prod_i p(s_i | s_1 ... s_i-1, class)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from unnoise.networks.layers import RMSNorm, zeroed

Kept = list[tuple[Tensor, Tensor]]
"""For every block the keys and values (B, heads, places so far, dim)."""


@dataclass(frozen=True)
class CausalTransformerConfig:
    """`length` symbols out of `symbols`; width divisible by heads; vector_dim: of the class, 0 for none."""

    symbols: int
    length: int
    width: int = 128
    depth: int = 3
    heads: int = 2
    vector_dim: int = 0
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")

    def build(self) -> "CausalTransformer":
        return CausalTransformer(self)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv, self.joined = RMSNorm(width), nn.Linear(width, 3 * width), zeroed(nn.Linear(width, width))
        self.norm2, self.hidden, self.out = RMSNorm(width), nn.Linear(width, 4 * width), zeroed(nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, kept: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, N, width): all places at once, or, with what was kept, the next one alone."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        if kept is not None:
            k, v = torch.cat([kept[0], k], 2), torch.cat([kept[1], v], 2)
        h = scaled_dot_product_attention(q, k, v, is_causal=kept is None)
        x = x + self.dropout(self.joined(h.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.out(gelu(self.hidden(self.norm2(x))))), (k, v)


class CausalTransformer(nn.Module):
    def __init__(self, config: CausalTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.symbols + 1, config.width)  # the last one stands before the first symbol
        self.places = nn.Parameter(torch.randn(config.length, config.width) / math.sqrt(config.width))
        nn.init.normal_(self.embed.weight, std=1 / math.sqrt(config.width))
        self.told = nn.Linear(config.vector_dim, config.width) if config.vector_dim else None
        self.blocks = nn.ModuleList(_Block(config.width, config.heads, config.dropout) for _ in range(config.depth))
        self.norm, self.out = RMSNorm(config.width), zeroed(nn.Linear(config.width, config.symbols))

    def forward(self, symbols: Tensor, vector: Tensor | None = None) -> Tensor:
        """symbols (B, L) int64 -> logits (B, L, symbols), those at place i from the symbols before i alone."""
        before = torch.cat([torch.full_like(symbols[:, :1], self.config.symbols), symbols[:, :-1]], 1)
        return self._run(before, vector, 0, None)[0]

    def _run(self, before: Tensor, vector: Tensor | None, first: int, kept: Kept | None) -> tuple[Tensor, Kept]:
        x = self.embed(before) + self.places[first : first + before.shape[1]]
        if self.told is not None and vector is not None:
            x = x + self.told(vector)[:, None]
        now: Kept = []
        for i, block in enumerate(self.blocks):
            x, pair = block(x, None if kept is None else kept[i])
            now.append(pair)
        return self.out(self.norm(x)), now

    @torch.no_grad()
    def draw(self, uniforms: Tensor, vector: Tensor | None = None) -> Tensor:
        """uniforms (B, L) in [0, 1) -> symbols (B, L): each the inverse distribution function at its uniform number."""
        before = torch.full((len(uniforms), 1), self.config.symbols, device=uniforms.device)
        kept: Kept | None = None
        out = []
        for i in range(self.config.length):
            logits, kept = self._run(before, vector, i, kept)
            below = logits[:, -1].double().softmax(-1).cumsum(-1)
            level = uniforms[:, i : i + 1].double() * below[:, -1:]
            before = torch.searchsorted(below, level, right=True).clamp(max=self.config.symbols - 1)
            out.append(before)
        return torch.cat(out, 1)

"""Networks for tables: rows of numeric and categorical columns, grouped in named fields.

    TableNetwork      a residual MLP over the whole row (Gorishniy et al. 2021, 2106.11959, section 3.2), each block scaled and
                      shifted by the noise level as in a diffusion transformer; TabDDPM (2209.15421) uses such an MLP
    TableTransformer  a token for every column and attention between columns (the FT-Transformer of the same paper)
Input: name -> (B, D) numbers, or (B, D, symbols) one-hot (any S numbers a column). Output: name -> (B, D), or (B, D, K).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from unnoise.networks.embedding import Fourier, NoiseEmbedding, NoiseFeatures
from unnoise.networks.layers import ModulatedBlock, RMSNorm, run, zeroed

Fields = Mapping[str, tuple[int, int, int]]
"""name -> (columns D, input numbers a column or 0 for a plain (B, D), output numbers K a column or 0 for a plain (B, D)).

The networks go through the fields by name, so the order of the mapping means nothing.
"""


@dataclass(frozen=True)
class TableNetworkConfig:
    """A residual MLP; `expansion` times `width` hidden units a block. vector_dim: of the condition, 0 for none."""

    fields: Fields
    width: int = 256
    depth: int = 4
    expansion: int = 2
    vector_dim: int = 0
    dropout: float = 0.0
    features: NoiseFeatures = Fourier()

    def build(self) -> "TableNetwork":
        return TableNetwork(self)


@dataclass(frozen=True)
class TableTransformerConfig:
    fields: Fields
    width: int = 128
    depth: int = 4
    heads: int = 4
    vector_dim: int = 0
    dropout: float = 0.0
    features: NoiseFeatures = Fourier()

    def build(self) -> "TableTransformer":
        return TableTransformer(self)


class ModulatedMLP(nn.Module):
    """x + gate * W2 silu(W1 (scale * norm(x) + shift)), all rows (B, width)."""

    def __init__(self, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 3 * width))
        self.hidden, self.dropout = nn.Linear(width, expansion * width), nn.Dropout(dropout)
        self.out = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(emb).chunk(3, -1)
        h = layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        return x + gate * self.out(self.dropout(silu(self.hidden(h))))


class TableNetwork(nn.Module):
    def __init__(self, config: TableNetworkConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        width = config.width
        self.embedding = NoiseEmbedding(config.features, width, width, config.vector_dim)
        fields = config.fields.values()
        self.first = nn.Linear(sum(d * max(s, 1) for d, s, _ in fields), width)
        self.blocks = nn.ModuleList(ModulatedMLP(width, config.expansion, config.dropout) for _ in range(config.depth))
        self.last = zeroed(nn.Linear(width, sum(d * max(k, 1) for d, _, k in fields)))

    def forward(self, x: Mapping[str, Tensor], noise_level: Tensor, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """noise_level (B,), cond: `vector` (B, vector_dim); an absent vector adds nothing."""
        emb = silu(self.embedding(noise_level, cond.get("vector")))
        dtype = self.last.weight.dtype
        h = self.first(torch.cat([x[name].flatten(1).to(dtype) for name in sorted(self.config.fields)], 1))
        for block in self.blocks:
            h = run(block, self.checkpointing, h, emb)
        h = self.last(silu(layer_norm(h, h.shape[-1:])))
        fields = sorted(self.config.fields.items())
        parts = h.split([d * max(k, 1) for _, (d, _, k) in fields], 1)
        return {
            name: (part.unflatten(1, (d, k)) if k else part).to(x[name].dtype) for part, (name, (d, _, k)) in zip(parts, fields)
        }


class ColumnsIn(nn.Module):
    """A linear map of its own for every column of a field: (B, D) or (B, D, S) -> (B, D, width)."""

    def __init__(self, columns: int, numbers: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(columns, max(numbers, 1), width))
        self.bias = nn.Parameter(torch.randn(columns, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., None] if x.ndim == 2 else x
        return torch.einsum("bds,dsw->bdw", x.to(self.weight.dtype), self.weight) + self.bias


class ColumnsOut(nn.Module):
    """The way back: (B, D, width) -> (B, D) or (B, D, K)."""

    def __init__(self, columns: int, numbers: int, width: int) -> None:
        super().__init__()
        self.plain, self.scale = numbers == 0, 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.zeros(columns, width, max(numbers, 1)))
        self.bias = nn.Parameter(torch.zeros(columns, max(numbers, 1)))

    def forward(self, h: Tensor) -> Tensor:
        out = torch.einsum("bdw,dwk->bdk", h * self.scale, self.weight) + self.bias
        return out[..., 0] if self.plain else out


class TableTransformer(nn.Module):
    def __init__(self, config: TableTransformerConfig) -> None:
        super().__init__()
        self.config, self.checkpointing = config, False
        width = config.width
        self.embedding = NoiseEmbedding(config.features, width, width, config.vector_dim)
        self.first = nn.ModuleDict({n: ColumnsIn(d, s, width) for n, (d, s, _) in config.fields.items()})
        self.blocks = nn.ModuleList(ModulatedBlock(width, config.heads, dropout=config.dropout) for _ in range(config.depth))
        self.norm = RMSNorm(width)
        self.last = nn.ModuleDict({n: ColumnsOut(d, k, width) for n, (d, _, k) in config.fields.items()})

    def forward(self, x: Mapping[str, Tensor], noise_level: Tensor, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """noise_level (B,), cond: `vector` (B, vector_dim); an absent vector adds nothing."""
        emb = silu(self.embedding(noise_level, cond.get("vector")))
        h = torch.cat([self.first[name](x[name]) for name in sorted(self.config.fields)], 1)
        for block in self.blocks:
            h = run(block, self.checkpointing, h, emb)
        fields = sorted(self.config.fields.items())
        parts = self.norm(h).split([d for _, (d, _, _) in fields], 1)
        return {name: self.last[name](part).to(x[name].dtype) for part, (name, _) in zip(parts, fields)}

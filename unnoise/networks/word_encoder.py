"""A small text encoder over a vocabulary of word pieces: a low-rank table and a few transformer blocks.

    h = up(E[ids]) + P,   h <- blocks(h),   tokens = out(h),   vector = the mean of the tokens of the text

E is a table of `rows` x `rank` numbers, which holds most of what the encoder knows; factorised as in ALBERT (Lan et al. 2019,
1909.11942, section 3.1), so that 28 thousand pieces of 64 numbers take less than two million weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unnoise.networks.text import TextBlock, TextEncoderConfig


@dataclass(frozen=True)
class WordEncoderConfig:
    """rows: of the table, 0 being padding. length: pieces of a text, at most. out: width of what is told."""

    rows: int
    out: int
    rank: int = 64
    width: int = 192
    depth: int = 2
    heads: int = 3
    length: int = 32

    def build(self) -> "WordEncoder":
        return WordEncoder(self)


class WordEncoder(nn.Module):
    """ids (B, L) int64, L <= length, padding (0) at the end only -> tokens (B, L, out), mask (B, L), vector (B, out)."""

    def __init__(self, config: WordEncoderConfig) -> None:
        super().__init__()
        self.config = config
        block = TextEncoderConfig(width=config.width, heads=config.heads)
        self.table = nn.Embedding(config.rows, config.rank)
        self.up = nn.Linear(config.rank, config.width)
        self.order = nn.Embedding(config.length, config.width)
        nn.init.normal_(self.order.weight, std=0.1)  # what a piece is counts more than where it stands
        self.blocks = nn.ModuleList(TextBlock(block) for _ in range(config.depth))
        self.out = nn.Linear(config.width, config.out)

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """weights (B, L): a token, and its share of the vector, is multiplied by its own."""
        mask = ids > 0
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)  # no row looks at nothing
        h = self.up(self.table(ids)) + self.order.weight[: ids.shape[1]]
        for block in self.blocks:
            h = block(h, mask)
        tokens = self.out(h).masked_fill(~mask[..., None], 0)
        if weights is not None:
            tokens = tokens * weights[..., None].to(tokens.dtype)
        return {"tokens": tokens, "mask": mask, "vector": tokens.sum(1) / mask.sum(1, keepdim=True)}

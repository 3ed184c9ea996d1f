"""A map over pictures of any size, tile by tile, in bounded memory and without seams.

A network of reach r gives at every pixel that lies r or more within a tile what it would give for the whole picture. So tiles
overlap, each is weighted 0 over its outer `margin` pixels (but at the picture's own border), rising to 1 over the next `fade`,

    out = sum_i w_i f(tile_i) / sum_i w_i,     w_i(y, x) = ramp(y) ramp(x),     ramp = clamp((distance - margin) / fade, 0, 1)
With margin >= r this is f of the whole, to rounding. Networks that look further (normalisation over the whole tile) differ
between tiles, and are faded into each other (as MultiDiffusion does with denoisers, Bar-Tal et al. 2023, 2302.08113).
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiling:
    """In pixels of the input, all multiples of `grain`. side: of a tile; margin and fade: see above."""

    side: int
    margin: int
    fade: int
    grain: int = 1

    def __post_init__(self) -> None:
        if self.grain < 1 or any(n % self.grain for n in (self.side, self.margin, self.fade)):
            raise ValueError(f"{self}: side, margin and fade must be multiples of the grain")
        if self.margin < 0 or self.fade < 1 or self.side < 2 * (self.margin + self.fade):
            raise ValueError(f"{self}: a tile must be wider than its margins and fades, {2 * (self.margin + self.fade)} pixels")

    def starts(self, length: int) -> list[int]:
        """Where tiles of a side `length` begin: evenly stepped, the last one at the end."""
        if length <= self.side:
            return [0]
        step = self.side - 2 * self.margin - self.fade
        return [*range(0, length - self.side, step), length - self.side]


def tiled(f: Callable[[Tensor], Tensor], x: Tensor, how: Tiling, scale: Fraction = Fraction(1)) -> Tensor:
    """f over x (B, C, H, W), sides multiples of the grain, where f makes them `scale` times as long: (B, C', H scale, W scale)."""
    height, width = x.shape[-2:]
    if height <= how.side and width <= how.side:
        return f(x)
    total: Tensor | None = None
    weights = x.new_zeros(int(height * scale), int(width * scale), dtype=torch.float32)
    for top in how.starts(height):
        for left in how.starts(width):
            tile = x[..., top : top + how.side, left : left + how.side]
            made = f(tile)
            rows = _ramp(top, tile.shape[-2], height, how, scale).to(made.device)
            columns = _ramp(left, tile.shape[-1], width, how, scale).to(made.device)
            weight = rows[:, None] * columns
            if total is None:
                total = made.new_zeros(*made.shape[:2], *weights.shape, dtype=torch.float32)
            y, z = int(top * scale), int(left * scale)
            there = (..., slice(y, y + len(rows)), slice(z, z + len(columns)))
            total[there] += weight * made
            weights[there] += weight
    assert total is not None
    return total / weights


def _ramp(start: int, side: int, length: int, how: Tiling, scale: Fraction) -> Tensor:
    """The weights along one side of the tile that begins at `start`: 1 towards the picture's own border, where no tile goes on."""
    place = (torch.arange(int(side * scale)) + 0.5) / float(scale)
    one = torch.ones(len(place))
    before = ((place - how.margin) / how.fade).clamp(0, 1) if start > 0 else one
    after = ((side - place - how.margin) / how.fade).clamp(0, 1) if start + side < length else one
    return before * after

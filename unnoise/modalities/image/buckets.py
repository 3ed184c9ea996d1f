"""Aspect-ratio buckets: pictures of many shapes, each trained on at the nearest of a few sizes of about equal area.

    sizes      (h, w), both multiples of a step, h w as large as side^2 lets it be     (Podell et al. 2023, 2307.01952, appendix I)
    nearest    the size whose log(h / w) is nearest to the picture's own: the least is cropped
    batch      pictures of one size: the bucket of the batch's first row; rows of other buckets give way to rows drawn from this one

Rows are drawn in proportion to weights w (all alike without), so bucket b comes up with probability sum_b w / sum w, and within
it picture i with w_i / sum_b w: every picture with w_i / sum w, as without buckets. A batch is still a function of its rows and
streams alone, so an interrupted run goes on exactly. Each process of several has a bucket of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.image.decode import Target, fit
from unnoise.modalities.image.show import to_image

Size = tuple[int, int]
"""(height, width) in pixels."""


def bucket_sizes(side: int, step: int, ratio: float = 2.0) -> tuple[Size, ...]:
    """Sizes of side x side pixels or a little less, at most `ratio` times as long as wide, the flattest first.

    Raises InputError for a side that the step does not divide.
    """
    if step < 1 or side % step:
        raise InputError(f"buckets in steps of {step} pixels: the side of {side} pixels must be divisible by it")
    sizes: set[Size] = set()
    for short in range(step, side + 1, step):
        long = step * (side**2 // (short * step))
        if long <= ratio * short:
            sizes |= {(short, long), (long, short)}
    return tuple(sorted(sizes, key=lambda s: s[0] / s[1]))


def nearest(height: int, width: int, sizes: Sequence[Size]) -> int:
    """The number of the size with the nearest shape."""
    shape = math.log(height / width)
    return min(range(len(sizes)), key=lambda i: abs(math.log(sizes[i][0] / sizes[i][1]) - shape))


def one_bucket(rows: Sequence[int], buckets: np.ndarray, weights: np.ndarray | None, rng: Streams) -> list[int]:
    """Rows drawn from all (in proportion to weights (N,), if given) -> rows of one bucket; buckets (N,): of every picture."""
    chosen = buckets[rows[0]]
    members = np.flatnonzero(buckets == chosen)
    w = np.ones(len(members)) if weights is None else weights[members]
    place = np.searchsorted(w.cumsum() / w.sum(), rng.uniform("bucket", dtype=torch.float64).numpy(), side="right")
    others = members[place.clip(max=len(members) - 1)]
    return np.where(buckets[list(rows)] == chosen, rows, others).tolist()


class Store(Protocol):
    """Decoded pictures of one size by row number."""

    def __call__(self, rows: Sequence[int]) -> np.ndarray: ...


@dataclass(frozen=True)
class Bucketed:
    """Pictures of several sizes by row number; asked for as they are, or all at one size.

    stores: one for every bucket in use. buckets and places (N,): where each picture lies. square: the one size.
    """

    stores: tuple[Store, ...]
    buckets: np.ndarray
    places: np.ndarray
    square: Target

    def __call__(self, rows: Sequence[int]) -> np.ndarray:
        """uint8 (len(rows), H, W, C), cropped about the centre or padded: to look at, and to measure."""
        pictures = [self.stores[self.buckets[r]]([self.places[r]])[0] for r in rows]
        return np.stack([p if p.shape == self._shape else fit(to_image(p), self.square) for p in pictures])

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.square.height, self.square.width, self.square.channels

    def shaped(self, rows: Sequence[int]) -> np.ndarray:
        """Pictures of one bucket as they are: uint8 (len(rows), h, w, C)."""
        (bucket,) = set(self.buckets[list(rows)].tolist())
        return self.stores[bucket](self.places[list(rows)].tolist())

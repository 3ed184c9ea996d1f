"""Nearest neighbours by Euclidean distance, in bounded memory.

float32 matrix products of centred rows, read in blocks; the nearest few again as float64 sums of squared differences, so that a
distance of 0 means equal rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise.core.errors import InputError
from unnoise.core.measure import Examples

EXACT = 4
"""So many of the nearest are measured again in float64."""
_BLOCK = 1 << 23  # float32 numbers of rows in memory at once (32 MiB), a few times over


@dataclass(frozen=True)
class Vectors:
    """`count` rows as vectors; read(rows) gives (n, D) float32."""

    count: int
    read: Callable[[Sequence[int]], Tensor]

    @staticmethod
    def of(x: Tensor) -> "Vectors":
        """From (N, ...)."""
        flat = x.detach().cpu().float().flatten(1)
        return Vectors(len(flat), lambda rows: flat[torch.as_tensor(rows, dtype=torch.int64)])

    @staticmethod
    def rows_of(examples: Examples, reference: Examples) -> "Vectors":
        """The rows themselves, scaled by `reference`."""
        return Vectors(len(examples), lambda rows: examples.tensor(reference, rows).flatten(1))

    def take(self, rows: Sequence[int]) -> "Vectors":
        kept = list(rows)
        return Vectors(len(kept), lambda some: self.read([kept[i] for i in some]))


@dataclass(frozen=True)
class Nearest:
    """Of each of n rows the k nearest others, the nearest first: distances (n, k) float64 and rows (n, k)."""

    distances: Tensor
    rows: Tensor

    def merged(self, other: "Nearest") -> "Nearest":
        """The nearest of both, as many as the one with more has."""
        d, order = torch.cat([self.distances, other.distances], 1).sort(dim=1, stable=True)
        rows = torch.cat([self.rows, other.rows], 1).gather(1, order)
        k = max(self.distances.shape[1], other.distances.shape[1])
        return Nearest(d[:, :k], rows[:, :k])


def nearest(x: Vectors, y: Vectors, k: int, progress: bool = False) -> Nearest:
    """For each row of x the k nearest rows of y by Euclidean distance; k is cut to the rows of y.

    The nearest four are exact; further ones as float32 products tell them, to about 1e-3 of the rows' spread.
    """
    if x.count < 1 or y.count < 1:
        raise InputError(f"nearest neighbours of {x.count} rows among {y.count}: at least one of each is needed")
    k = min(k, y.count)
    centre = y.read(range(min(y.count, 1000))).mean(0)
    size = max(64, min(4096, _BLOCK // len(centre)))
    out = []
    for first in tqdm(range(0, x.count, size), desc="neighbours", unit="block", disable=not progress, leave=False):
        rows = x.read(range(first, min(first + size, x.count)))
        a = rows - centre
        d, found = torch.empty(len(a), 0), torch.empty(len(a), 0, dtype=torch.int64)
        for start in range(0, y.count, size):
            b = y.read(range(start, min(start + size, y.count))) - centre
            far = torch.addmm((b**2).sum(1), a, b.T, alpha=-2)  # less |a|^2, which all share
            near = far.topk(min(k, len(b)), dim=1, largest=False)
            d, found = torch.cat([d, near.values], 1), torch.cat([found, near.indices + start], 1)
            best = d.topk(min(k, d.shape[1]), dim=1, largest=False)  # sorted
            d, found = best.values, found.gather(1, best.indices)
        far64 = (d + (a**2).sum(1, keepdim=True)).clamp(min=0).double().sqrt()
        out.append(_again(rows, y, Nearest(far64, found)))
    return Nearest(torch.cat([o.distances for o in out]), torch.cat([o.rows for o in out]))


def _again(x: Tensor, y: Vectors, found: Nearest) -> Nearest:
    """The first few measured exactly."""
    some = found.rows[:, :EXACT]
    d = found.distances.clone()
    step = max(1, _BLOCK // (2 * x.shape[1] * some.shape[1]))
    for i in range(0, len(x), step):
        block = some[i : i + step]
        theirs = y.read(block.flatten().tolist()).double().reshape(*block.shape, -1)
        d[i : i + step, :EXACT] = (x[i : i + step, None].double() - theirs).square().sum(-1).sqrt()
    d[:, EXACT:] = torch.maximum(d[:, EXACT:], d[:, :EXACT].amax(1, keepdim=True))  # rounding must not put them before
    d, order = d.sort(dim=1, stable=True)
    return Nearest(d, found.rows.gather(1, order))

"""Do made rows lie where real ones do, and are they found wherever those are? Balls around rows, up to the k-th nearest neighbour.

    precision   share of made rows in some ball of real rows            (Kynkaanniemi et al. 2019, 1904.06991, eq. 1-2; k = 3)
    recall      share of real rows in some ball of made rows
    density     how many balls of real rows a made row is in, over k    (Naeem et al. 2020, 2002.09797, eq. 4-6; k = 5)
    coverage    share of the balls of real rows that hold a made row
Equal distributions give a density of 1 in the mean and a coverage of 1 - prod_(i=1..k) (n - i) / (n + m - i); precision and recall
fall short of 1 by an amount that depends on the data: their floor says by how much. All depend on the number of rows.

Intervals: both samples are cut into 10 disjoint parts; the spread of the parts' figures over sqrt(10), as variances fall as
1 / rows (subsampling; Politis, Romano & Wolf 1999).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval, student
from unnoise.core.random import Streams
from unnoise.evaluation.frechet import paired

_BLOCK = 1 << 22
"""float32 numbers of a block of distances (16 MiB)."""
_PARTS, _PART_ROWS = 10, 15

Figures = Callable[[Tensor, Tensor], tuple[float, float]]


def precision_recall(real: Tensor, made: Tensor, k: int = 3, seed: int = 0) -> tuple[Interval, Interval]:
    """Of features (n, F) and (m, F); 0 ... 1. InputError with fewer than 45 rows of either."""

    def figures(x: Tensor, y: Tensor) -> tuple[float, float]:
        inside, _ = _held(x, radii(x, k), y)
        found, _ = _held(y, radii(y, k), x)
        return float((inside > 0).double().mean()), float((found > 0).double().mean())

    return _with_intervals(figures, real, made, k, seed, top=(1.0, 1.0))


def density_coverage(real: Tensor, made: Tensor, k: int = 5, seed: int = 0) -> tuple[Interval, Interval]:
    """Of features (n, F) and (m, F); density 0 ... (1 is best), coverage 0 ... 1. InputError with fewer than 45 rows of either."""

    def figures(x: Tensor, y: Tensor) -> tuple[float, float]:
        inside, holds = _held(x, radii(x, k), y)
        return float(inside.double().mean()) / k, float(holds.double().mean())

    return _with_intervals(figures, real, made, k, seed, top=(math.inf, 1.0))


def radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th nearest other row: (n,)."""
    # the first is the row itself, or an equal one
    return torch.cat([_squared(b, x).topk(k + 1, dim=1, largest=False).values[:, k] for b in x.split(_step(x))])


def _held(centres: Tensor, squared_radii: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """How many balls each point lies in (m,), and which balls hold a point (n,)."""
    counts, holds = [], torch.zeros(len(centres), dtype=torch.bool)
    for block in points.split(_step(centres)):
        inside = _squared(block, centres) <= squared_radii
        counts.append(inside.sum(1))
        holds |= inside.any(0)
    return torch.cat(counts), holds


def _step(x: Tensor) -> int:
    return max(1, _BLOCK // len(x))


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|^2 as |x|^2 - 2 <x, y> + |y|^2, to about 1e-6 of the rows' spread."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1, keepdim=True)).clamp_(min=0)


def _with_intervals(
    figures: Figures, real: Tensor, made: Tensor, k: int, seed: int, top: tuple[float, float]
) -> tuple[Interval, Interval]:
    x, y = paired(real, made, 3 * _PART_ROWS)
    few = min(len(x), len(y))
    parts = min(_PARTS, few // _PART_ROWS)
    if few // parts <= k:
        raise InputError(f"{few} rows are too few for {k} neighbours")
    x, y = _centred(x, y)
    u = Streams.of(seed, 1)
    cut = [v[u.uniform(name, (len(v),))[0].argsort()].tensor_split(parts) for name, v in (("real", x), ("made", y))]
    spread = torch.tensor([figures(a, b) for a, b in zip(*cut)], dtype=torch.float64).std(0)
    reach = student(parts - 1) * spread / math.sqrt(parts)
    first, second = (Interval(v, max(0.0, v - r), min(t, v + r)) for v, r, t in zip(figures(x, y), reach.tolist(), top))
    return first, second


def _centred(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """About the mean of the real rows, where float32 squares are most exact."""
    mean = x.double().mean(0)
    return (x.double() - mean).float(), (y.double() - mean).float()

"""Are two samples from one distribution? Distances, their p-values, and what the distance between real and real is.

    energy distance     2 E|X - Y| - E|X - X'| - E|Y - Y'|                      (Szekely & Rizzo 2013, J. Stat. Plan. Inf. 143)
    maximum mean        E k(X, X') + E k(Y, Y') - 2 E k(X, Y), k a sum of       (Gretton et al. 2012, JMLR 13, eq. 3, lemma 6)
      discrepancy       exp(-|x - y|^2 / (2 b^2)) over bandwidths b
    sliced Wasserstein  mean over unit directions w of W_1(<w, X>, <w, Y>)      (Bonneel et al. 2015, J. Math. Imaging Vis. 51)
The first two are one formula for a kernel k (Sejdinovic et al. 2013, Ann. Stat. 41): with k = -|x - y| the second is the first.
Averages over distinct pairs (U-statistics) have the true value as their mean, and may be negative; over all pairs (V) they do not.

The permutation test compares a distance with those of the pooled rows split at random into groups of the same sizes. All splits are
measured in one pass: for a kernel matrix K, read in blocks, and the splits' indicators A (N, P), all that is needed is A^T K A.

Intervals: the delete-one jackknife of the U-statistic, from the row sums of K (Arvesen 1969, Ann. Math. Stat. 40); for the sliced
Wasserstein distance the delta method with its influence function, the mean over lines of the optimal potentials (del Barrio, Gine
& Matran 1999, Ann. Prob. 27; Manole, Balakrishnan & Wasserman 2022, Electron. J. Stat. 16).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.intervals import Z
from unnoise.core.random import Streams

_BLOCK = 1 << 24
"""At most so many float64 numbers of a kernel matrix, or of sorted splits, are in memory at once (128 MiB)."""


@dataclass(frozen=True)
class Study:
    """distances: of P splits (P,). influence: (N,), of the first split: what each row adds to its distance, to first order."""

    distances: Tensor
    influence: Tensor

    def error(self, first: Tensor) -> float:
        """The standard error of the first distance; first: (N,) bool, its split."""
        groups = self.influence[first], self.influence[~first]
        return math.sqrt(sum(float(g.var()) / len(g) for g in groups))


class Distance(ABC):
    """Between two samples of vectors; a frozen dataclass."""

    @abstractmethod
    def study(self, pooled: Tensor, first: Tensor) -> Study:
        """pooled: (N, D) float64. first: (N, P) bool, in which of P splits a row is in the first group."""

    def between(self, pooled: Tensor, first: Tensor) -> Tensor:
        """The P distances (P,)."""
        return self.study(pooled, first).distances

    def __call__(self, x: Tensor, y: Tensor) -> float:
        """The distance between rows x (n, ...) and y (m, ...); n, m >= 2."""
        pooled, first = pool(x, y)
        return float(self.between(pooled, first[:, None])[0])


Kernel = Callable[[Tensor, Tensor], Tensor]
"""All rows of x (n, D) with all of y (m, D): (n, m)."""


class KernelDistance(Distance, ABC):
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y). `unbiased`: the first two average over distinct pairs (U), else over all (V)."""

    unbiased: bool

    @abstractmethod
    def kernel(self, pooled: Tensor) -> Kernel:
        """k, with what it takes from the pooled rows (N, D); that must not depend on which group they are in."""

    def study(self, pooled: Tensor, first: Tensor) -> Study:
        k, a = self.kernel(pooled), first.double()
        parts, start = [], 0  # of K A (N, P), K 1 (N,) and the diagonal of K (N,)
        for rows in pooled.split(max(1, _BLOCK // len(pooled))):
            block = k(rows, pooled)
            parts.append((block @ a, block.sum(1), block.diagonal(start)))
            start += len(rows)
        ka, k1, diagonal = (torch.cat(part) for part in zip(*parts))
        xx = (a * ka).sum(0)
        xy = k1 @ a - xx
        yy = k1.sum() - xx - 2 * xy
        n, m = a.sum(0), (1 - a).sum(0)
        influence = _left_out(first[:, 0], ka[:, 0] - diagonal * a[:, 0], k1 - ka[:, 0] - diagonal * (1 - a[:, 0]))
        if self.unbiased:
            own = diagonal @ a
            u = (xx - own) / (n * (n - 1)) + (yy - diagonal.sum() + own) / (m * (m - 1)) - 2 * xy / (n * m)
            return Study(u, influence)
        return Study(xx / n**2 + yy / m**2 - 2 * xy / (n * m), influence)


def _left_out(first: Tensor, to_x: Tensor, to_y: Tensor) -> Tensor:
    """The jackknife's influence of each row on the U-statistic: (n - 1) (mean over i of U without row i - U without this one).

    to_x, to_y: (N,) sums of k between this row and the others of each group.
    """
    n, m = int(first.sum()), int((~first).sum())
    xx, yy, xy = to_x[first].sum(), to_y[~first].sum(), to_y[first].sum()
    without_x = (xx - 2 * to_x) / max(1, (n - 1) * (n - 2)) + yy / (m * (m - 1)) - 2 * (xy - to_y) / ((n - 1) * m)
    without_y = xx / (n * (n - 1)) + (yy - 2 * to_y) / max(1, (m - 1) * (m - 2)) - 2 * (xy - to_x) / (n * (m - 1))
    gone_x = (n - 1) * (without_x[first].mean() - without_x)
    gone_y = (m - 1) * (without_y[~first].mean() - without_y)
    return torch.where(first, gone_x, gone_y)


@dataclass(frozen=True)
class Energy(KernelDistance):
    """In the unit of the data. Zero for equal distributions only."""

    unbiased: bool = True

    def kernel(self, pooled: Tensor) -> Kernel:
        return lambda x, y: -_distances(x, y)


@dataclass(frozen=True)
class MMD(KernelDistance):
    """The squared discrepancy, without a unit. `bandwidths`: b above; None: 1/4, 1/2, 1, 2, 4 times the median distance of rows."""

    unbiased: bool = True
    bandwidths: tuple[float, ...] | None = None

    def kernel(self, pooled: Tensor) -> Kernel:
        widths = self.bandwidths
        if widths is None:
            some = pooled[:: math.ceil(len(pooled) / 1000)]
            median = float(torch.pdist(some).median())
            if median == 0:
                raise InputError("more than half of the rows are equal: give MMD its bandwidths")
            widths = tuple(median * 2.0**i for i in (-2, -1, 0, 1, 2))

        def k(x: Tensor, y: Tensor) -> Tensor:
            squared = _distances(x, y).square_()
            out = torch.zeros_like(squared)
            for b in widths:
                out += (squared * (-1 / (2 * b**2))).exp_()
            return out

        return k


@dataclass(frozen=True)
class SlicedWasserstein(Distance):
    """In the unit of the data, over so many random directions. At most the Wasserstein-1 distance, and zero only where that is.

    For equal sizes and for others: W_1 is the area between the two distribution functions.
    """

    directions: int = 128
    seed: int = 0

    def study(self, pooled: Tensor, first: Tensor) -> Study:
        w = Streams.of(self.seed, self.directions).normal("directions", pooled.shape[1:]).double()
        lines = (pooled @ (w / w.norm(dim=1, keepdim=True)).T).T.contiguous()  # (directions, N)
        x, order = lines.sort(1)
        gaps = x.diff()
        areas = [_areas(gaps, order, some) for some in first.split(max(1, _BLOCK // len(pooled)), dim=1)]
        return Study(torch.cat(areas), _potential(gaps, order, first[:, 0]))


def _areas(gaps: Tensor, order: Tensor, first: Tensor) -> Tensor:
    """Mean over the lines of the area between the two distribution functions: (P,). gaps: (L, N - 1), order: (L, N)."""
    n, m = first.sum(0), (~first).sum(0)
    kind = torch.int32 if int((n * m).max()) < 2**31 else torch.int64
    step = torch.where(first, m, -n).to(kind)  # (N, P): n m times what a row adds to the difference of the distribution functions
    area = torch.zeros(first.shape[1], dtype=torch.float64)
    for gap, rows in zip(gaps, order):
        area += gap @ step[rows[:-1]].cumsum(0, dtype=kind).abs_().double()  # integers: exact, and three times as fast
    return area / (n * m * len(order))


def _potential(gaps: Tensor, order: Tensor, first: Tensor) -> Tensor:
    """What a row adds: h(x) = -+ integral up to x of sign(F - G), for the first group and the second; a mean over the lines.

    The derivative of integral |F - G| as rows move mass from F to the row: d/de integral |F + e (1{x <= t} - F) - G| dt.
    """
    a = first.double()
    step = a / a.sum() - (1 - a) / (1 - a).sum()
    signs = step[order].cumsum(1)[:, :-1].sign()
    h = torch.zeros_like(order, dtype=torch.float64)
    h[:, 1:] = (signs * gaps).cumsum(1)  # at the ordered rows
    total = torch.zeros(len(first), dtype=torch.float64).scatter_add_(0, order.flatten(), h.flatten())
    return torch.where(first, -total, total) / len(order)


@dataclass(frozen=True)
class Compared:
    """A distance, its 95 % interval, and the permutation test's p-value. `null`: the mean over random splits of the pooled rows."""

    value: float
    low: float
    high: float
    p_value: float
    null: float


@dataclass(frozen=True)
class Floor:
    """Distances between two samples of the real: their mean, standard deviation and 95 % quantile over random splits."""

    mean: float
    std: float
    high: float


def compare(distance: Distance, x: Tensor, y: Tensor, permutations: int = 999, seed: int = 0) -> Compared:
    """The permutation test, with an interval for the distance between the two distributions.

    p_value: exact under exchangeability, P(p_value <= a) <= a if x and y are from one distribution (Phipson & Smyth 2010, eq. 4).

    value - null - 1.96 s ... value + 1.96 s. s: by the jackknife, whose variance is too large in the mean (Efron & Stein 1981, Ann.
    Stat. 9), or for sliced Wasserstein by its influence function; but at least the standard deviation over random splits, the truth
    between equal distributions, where the others are small whenever the distance happens to be. null: averages over all pairs and
    areas are too large by at most about what equal distributions give (|.| is convex, and noise moves it most where F = G); for
    averages over distinct pairs it is 0 but for the number of permutations. A true distance is not negative, so neither is the
    lower end where the value is not.
    """
    return compare_pooled(distance, *pool(x, y), permutations, seed)


def compare_pooled(distance: Distance, pooled: Tensor, first: Tensor, permutations: int, seed: int) -> Compared:
    """The same for rows that lie together (N, D), float64; first: (N,) bool, which of them are of the first sample."""
    if permutations < 1:
        raise InputError(f"permutations {permutations}: at least 1; 999 are usual")
    splits = torch.cat([first[:, None], _random_splits(len(pooled), int(first.sum()), permutations, seed)], 1)
    study = distance.study(pooled, splits)
    d = study.distances
    tolerance = 1e-12 * float(d.abs().max())  # the same split in another order is a tie, whatever its rounding
    value, null = float(d[0]), float(d[1:].mean())
    reach = Z * max(study.error(first), float(d[1:].std(unbiased=False)))
    low = value - null - reach
    p_value = float((d >= value - tolerance).double().mean())
    return Compared(value, max(low, 0.0) if value >= 0 else low, value + reach, p_value, null)


def floor(distance: Distance, real_a: Tensor, real_b: Tensor, splits: int = 100, seed: int = 0) -> Floor:
    """What distance is to be expected of a perfect model: real rows against other real rows, in groups of these two sizes."""
    if splits < 2:
        raise InputError(f"splits {splits}: at least 2; 100 are usual")
    pooled, _ = pool(real_a, real_b)
    d = distance.between(pooled, _random_splits(len(pooled), len(real_a), splits, seed))
    return Floor(float(d.mean()), float(d.std()), float(d.quantile(0.95)))


def pool(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of both (N, D) in float64, less their mean, and which are x's (N,) bool. InputError for what cannot be compared."""
    x, y = (v.detach().cpu().double().flatten(1) if v.ndim > 1 else v.detach().cpu().double()[:, None] for v in (x, y))
    if x.shape[1] != y.shape[1]:
        raise InputError(f"samples of {x.shape[1]} and of {y.shape[1]} numbers a row cannot be compared")
    if len(x) < 2 or len(y) < 2:
        raise InputError(f"samples of {len(x)} and {len(y)} rows: a distance needs at least 2 of each, and hundreds to mean much")
    pooled = torch.cat([x, y])
    if not bool(pooled.isfinite().all()):
        raise InputError("a sample to be compared holds values that are not finite numbers")
    return pooled - pooled.mean(0), torch.arange(len(pooled)) < len(x)


def _random_splits(total: int, n: int, count: int, seed: int) -> Tensor:
    """(total, count) bool with n True in every column."""
    u = Streams.of(seed, count).uniform("splits", (total,), dtype=torch.float64)
    return (u.argsort(1).argsort(1) < n).T


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|. As sqrt(|x|^2 - 2xy + |y|^2), a matrix product: exact to 1e-8 of the spread, `pool` having centred the rows."""
    return torch.cdist(x, y, compute_mode="use_mm_for_euclid_dist")

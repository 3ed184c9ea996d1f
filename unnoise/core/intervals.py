"""How sure a figure is: 95 % intervals and p-values that are computed in closed form or by enumeration, without a library.

share k / n     Wilson 1927 (J. Am. Stat. Assoc. 22): all p with |k/n - p| <= z sqrt(p (1 - p) / n)
mean            Student's t; difference of two means: Welch 1947 (Biometrika 34)
AUC             P(X < Y) + P(X = Y) / 2 = U / (n m) (Mann & Whitney 1947); its variance from the placements of the one sample
                in the other (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44)
below a rank    of n new values, how many lie below the r-th smallest of h earlier ones, all exchangeable: K ~ beta-binomial
                (n, r, h + 1 - r), whatever their distribution
"""

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import torch
from torch import Tensor

from unnoise.core.errors import InputError

LEVEL = 0.95
_NORMAL = NormalDist()
Z = _NORMAL.inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


def share(k: float, n: float) -> Interval:
    """k of n, 0 <= k <= n. Both may be fractions: an effective number of independent rows."""
    if not 0 <= k <= n or n <= 0:
        raise InputError(f"{k:g} of {n:g} is no share")
    p, z2 = k / n, Z**2 / n
    middle = (p + z2 / 2) / (1 + z2)
    reach = math.sqrt(z2 * p * (1 - p) + z2**2 / 4) / (1 + z2)
    return Interval(p, max(0.0, min(p, middle - reach)), min(1.0, max(p, middle + reach)))


def mean(values: Tensor) -> Interval:
    """Of n >= 2 independent values."""
    v = _finite(values)
    reach = student(len(v) - 1) * float(v.std()) / math.sqrt(len(v))
    return Interval(float(v.mean()), float(v.mean()) - reach, float(v.mean()) + reach)


def difference(a: Tensor, b: Tensor) -> Interval:
    """mean(a) - mean(b) of two independent samples."""
    a, b = _finite(a), _finite(b)
    va, vb = float(a.var()) / len(a), float(b.var()) / len(b)
    d, v = float(a.mean() - b.mean()), va + vb
    freedom = v**2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1)) if v > 0 else 1.0
    reach = student(freedom) * math.sqrt(v)
    return Interval(d, d - reach, d + reach)


@dataclass(frozen=True)
class Auc:
    """P(low < high) + P(low = high) / 2 and the one-sided p-value of "at most 1/2"."""

    interval: Interval
    p_value: float


def auc(low: Tensor, high: Tensor) -> Auc:
    """How well a threshold tells the rows of `high` from those of `low`; the p-value is Mann-Whitney's, normal, with ties."""
    x, y = _finite(low), _finite(high)
    n, m = len(x), len(y)
    placed_y, placed_x = _placement(y, x), 1 - _placement(x, y)  # P(a row of x < y_j), P(x_i < a row of y)
    area = float(placed_y.mean())
    reach = Z * math.sqrt(float(placed_x.var()) / n + float(placed_y.var()) / m)
    _, ties = torch.cat([x, y]).unique(return_counts=True)
    total = n + m
    tied = float((ties.double() ** 3 - ties).sum()) / (total * (total - 1))
    std = math.sqrt(max(0.0, (total + 1 - tied) / (12 * n * m)))
    p = 1 - _NORMAL.cdf((area - 0.5) / std) if std > 0 else 1.0
    return Auc(Interval(area, max(0.0, area - reach), min(1.0, area + reach)), min(1.0, max(p, 1e-16)))


def _placement(values: Tensor, among: Tensor) -> Tensor:
    """The share of `among` that is smaller than each value, ties counted half."""
    among = among.sort().values
    below = torch.searchsorted(among, values), torch.searchsorted(among, values, right=True)
    return (below[0] + below[1]).double() / (2 * len(among))


def below_rank(count: int, n: int, rank: int, earlier: int) -> float:
    """P(K >= count): of n new values below the rank-th smallest (1 = smallest) of `earlier` ones, if all are exchangeable."""
    if not 1 <= rank <= earlier or not 0 <= count <= n:
        raise InputError(f"rank {rank} of {earlier} and {count} of {n}: ranks run from 1 on, counts up to the number of values")
    k = torch.arange(n + 1, dtype=torch.float64)
    a, b = float(rank), float(earlier + 1 - rank)
    log_p = _log_choose(n, k) + _log_beta(k + a, n - k + b) - _log_beta(torch.tensor(a), torch.tensor(b))
    return min(1.0, float(log_p[count:].logsumexp(0).exp()))


def _log_choose(n: int, k: Tensor) -> Tensor:
    return math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.double(), b.double()
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


@cache
def student(freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t with freedom >= 1: the root of its distribution function, by bisection.

    With t = sqrt(f) tan(a) the density is proportional to cos(a)^(f - 1) on (-pi/2, pi/2).
    """
    if freedom > 1e4:
        return Z
    a = torch.linspace(0, math.pi / 2, 200_001, dtype=torch.float64)
    log_norm = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - 0.5 * math.log(math.pi)
    density = a.cos().clamp(min=0) ** (freedom - 1) * math.exp(log_norm)
    mass = torch.cumulative_trapezoid(density, a)
    i = int(torch.searchsorted(mass, LEVEL / 2).clamp(max=len(mass) - 1))
    before = float(mass[i - 1])
    w = (LEVEL / 2 - before) / (float(mass[i]) - before)
    return math.sqrt(freedom) * math.tan(float(a[i]) + w * float(a[1]))


def _finite(values: Tensor) -> Tensor:
    v = values.detach().cpu().double().flatten()
    if len(v) < 2 or not bool(v.isfinite().all()):
        raise InputError(
            f"{len(v)} values, {int((~v.isfinite()).sum())} of them not finite: an interval needs at least 2, all finite"
        )
    return v

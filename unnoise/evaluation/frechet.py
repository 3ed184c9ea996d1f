"""How far apart two samples of features are, as Gaussians: the Frechet distance, and what it is without end of rows.

    d^2(a, b) = |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a^(1/2) S_b S_a^(1/2))^(1/2))     (Dowson & Landau 1982; Heusel et al. 2017)
which is the squared Wasserstein-2 distance of the Gaussians. What a row adds to it, to first order, is their optimal potential
    phi(x) = 2 <mu_a - mu_b, x - mu_a> + (x - mu_a)^T (I - T) (x - mu_a)
    T = S_a^(-1/2) (S_a^(1/2) S_b S_a^(1/2))^(1/2) S_a^(-1/2)
so that its variance is var phi_a(X) / n + var phi_b(Y) / m               (Rippl, Munk & Sturm 2016, J. Multivar. Anal. 151)
With few rows it is too large by about c / rows: a line through the distances of nested subsets over 1 / rows meets 1 / rows = 0
at d^2 without that bias                                                  (Chong & Forsyth 2020, 1911.07023)
"""

import math
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval, Z, student
from unnoise.core.random import Streams

_BLOCK = 4096
_NULL = 1e-10
"""Eigenvalues below this share of the largest are directions without variance."""


@dataclass(frozen=True)
class Moments:
    """Of `count` rows: their mean (F,) and the sum of (x - mean) (x - mean)^T (F, F), float64. Those of two sets add up.

    (Chan, Golub & LeVeque 1983, Am. Stat. 37: no large numbers are subtracted from one another)
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(x: Tensor) -> "Moments":
        """From rows (n, F), n >= 1."""
        x = rows_of(x)
        return reduce(Moments.__add__, (Moments._block(b.double()) for b in x.split(_BLOCK)))

    @staticmethod
    def _block(x: Tensor) -> "Moments":
        mean = x.mean(0)
        return Moments(len(x), mean, (x - mean).T @ (x - mean))

    def __add__(self, other: "Moments") -> "Moments":
        n, gap = self.count + other.count, other.mean - self.mean
        between = torch.outer(gap, gap) * (self.count * other.count / n)
        return Moments(n, self.mean + gap * (other.count / n), self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """(F, F), over count - 1."""
        if self.count < 2:
            raise InputError("1 row has no covariance: the Frechet distance needs at least 2 of each sample")
        return self.scatter / (self.count - 1)


def distance(a: Moments, b: Moments) -> float:
    """d^2, at least 0; of singular covariances too."""
    s_a, s_b = a.covariance, b.covariance
    factor, singular = torch.linalg.cholesky_ex(s_a)
    if singular:
        (factor,) = _powers(s_a, 0.5)
    # with S_a = L L^T, L^T S_b L has the eigenvalues of S_a^(1/2) S_b S_a^(1/2); Cholesky's L takes a fraction of the time
    cross = torch.linalg.eigvalsh(factor.T @ s_b @ factor).clamp(min=0).sqrt().sum()
    return max(0.0, float((a.mean - b.mean).square().sum() + s_a.trace() + s_b.trace() - 2 * cross))


def frechet(a: Tensor, b: Tensor) -> Interval:
    """d^2 of features a (n, F) and b (m, F), and the interval of what samples of these sizes give in the mean.

    It is above d^2 of the distributions by a bias that falls as 1 / rows: compare it with figures of equal sizes only.
    """
    x, y = paired(a, b, 2)
    m_a, m_b = Moments.of(x), Moments.of(y)
    value, reach = distance(m_a, m_b), Z * _error(x, y, m_a, m_b)
    return Interval(value, max(0.0, value - reach), value + reach)


def frechet_infinite(a: Tensor, b: Tensor, points: int = 6, nests: int = 4, seed: int = 0) -> Interval:
    """d^2 of the distributions, both samples extrapolated. Unbiased to first order, so it may be negative.

    In each of `nests` random orders the first 30 to 100 % of the rows of both samples are measured at `points` sizes, evenly
    spaced in 1 / rows. The interval is of the rows' doubt (above) and of the orders'. InputError with fewer than 3 rows a feature.
    """
    x, y = paired(a, b, 2)
    few, width = min(len(x), len(y)), x.shape[1]
    least = max(0.3, 2 * width / few)
    if least > 2 / 3:
        raise InputError(f"{few:,} rows of {width} features are too few to extrapolate from: at least {3 * width:,} are needed")
    inverse = torch.linspace(1, 1 / least, points, dtype=torch.float64)
    shares = (1 / inverse).tolist()
    whole = Moments.of(x), Moments.of(y)
    design = torch.stack([torch.ones_like(inverse), inverse], 1)
    at_zero = []
    for order in Streams.of(seed, nests).seeds:
        u = Streams.each([order])
        nested = [_nested(v, u.uniform(name, (len(v),))[0].argsort(), shares) for name, v in (("a", x), ("b", y))]
        d = [distance(*whole), *(distance(p, q) for p, q in zip(*nested))]
        at_zero.append(torch.linalg.lstsq(design, torch.tensor(d, dtype=torch.float64)[:, None]).solution[0, 0])
    found = torch.stack(at_zero)
    value = float(found.mean())
    orders = student(nests - 1) * float(found.std()) / math.sqrt(nests)
    reach = math.hypot(Z * _error(x, y, *whole), orders)
    return Interval(value, value - reach, value + reach)


def _nested(x: Tensor, order: Tensor, shares: list[float]) -> list[Moments]:
    """Moments of the first rows, for every share but the whole; falling, each held by the one before."""
    ends = [round(s * len(x)) for s in reversed(shares[1:])]
    out = [Moments.of(x[order[: ends[0]]])]
    for start, end in pairwise(ends):
        out.append(out[-1] + Moments.of(x[order[start:end]]))
    return out[::-1]


def _error(x: Tensor, y: Tensor, a: Moments, b: Moments) -> float:
    """The standard error, from the variances of both potentials."""
    return math.sqrt(sum(float(phi.var()) / len(phi) for phi in (_potential(x, a, b), _potential(y, b, a))))


def _potential(x: Tensor, a: Moments, b: Moments) -> Tensor:
    root, back = _powers(a.covariance, 0.5, -0.5)
    transport = back @ _powers(root @ b.covariance @ root, 0.5)[0] @ back
    still = torch.eye(len(transport), dtype=torch.float64) - transport
    out = []
    for rows in x.split(_BLOCK):
        c = rows.double() - a.mean
        out.append(2 * c @ (a.mean - b.mean) + ((c @ still) * c).sum(1))
    return torch.cat(out)


def _powers(s: Tensor, *powers: float) -> tuple[Tensor, ...]:
    """Of a symmetric matrix without negative eigenvalues (but for rounding); directions without variance stay so."""
    values, vectors = torch.linalg.eigh((s + s.T) / 2)
    kept = values > _NULL * values[-1].clamp(min=0)
    safe = torch.where(kept, values, torch.ones_like(values))
    return tuple((vectors * torch.where(kept, safe**p, torch.zeros_like(values))) @ vectors.T for p in powers)


def rows_of(x: Tensor) -> Tensor:
    """(n, F), finite."""
    x = x.detach().cpu()
    x = x[:, None] if x.ndim == 1 else x.flatten(1)
    if len(x) == 0 or x.shape[1] == 0:
        raise InputError(f"features of shape {tuple(x.shape)}: there is nothing to measure")
    if not bool(x.isfinite().all()):
        raise InputError("features hold values that are not finite numbers")
    return x


def paired(a: Tensor, b: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Both as (n, F), of one length, with at least so many rows each."""
    x, y = rows_of(a), rows_of(b)
    if x.shape[1] != y.shape[1]:
        raise InputError(f"{x.shape[1]} and {y.shape[1]} features a row cannot be compared")
    if min(len(x), len(y)) < least:
        raise InputError(f"samples of {len(x)} and {len(y)} rows: this needs at least {least} of each")
    return x, y

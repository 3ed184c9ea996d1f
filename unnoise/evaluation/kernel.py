"""Kernel distance of features (KID): the squared maximum mean discrepancy with k(x, y) = (<x, y> / F + 1)^3, over distinct pairs.

(Binkowski et al. 2018, 1801.01401, section 4). Its mean is the true value at any number of rows, which the Frechet distance's is
not. All pairs of rows are used, where published figures average over random subsets of 1,000: the mean is the same, and the
variance the smallest. The interval is the jackknife's; see `two_sample.compare`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.intervals import Interval
from unnoise.evaluation.frechet import paired
from unnoise.evaluation.two_sample import Kernel, KernelDistance, compare_pooled

_SPLITS = 99
"""Random splits that say how far apart samples of one distribution are."""


@dataclass(frozen=True)
class Polynomial(KernelDistance):
    """Of features as they are, not centred: its `study` is to be called with such."""

    unbiased: bool = True

    def kernel(self, pooled: Tensor) -> Kernel:
        return lambda x, y: _cube(torch.addmm(torch.ones(1, dtype=x.dtype), x, y.T, alpha=1 / x.shape[1]))


def _cube(x: Tensor) -> Tensor:
    return (x * x).mul_(x)


def kid(a: Tensor, b: Tensor, seed: int = 0) -> Interval:
    """Of features a (n, F) and b (m, F), n, m >= 2; time and pairs grow as (n + m)^2, memory does not."""
    x, y = paired(a, b, 2)
    first = torch.arange(len(x) + len(y)) < len(x)
    c = compare_pooled(Polynomial(), torch.cat([x, y]).double(), first, _SPLITS, seed)
    return Interval(c.value, c.low, c.high)

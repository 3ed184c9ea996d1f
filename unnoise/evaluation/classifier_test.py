"""Can a classifier tell made rows from real ones? (Lopez-Paz & Oquab 2017, 1610.06545)

Trained on half of the rows of each sample and asked about the other half, and the other way round. Given the half that it learnt
from, each of the t answers about the other, n / 2 rows of each sample, is right or wrong independently; if the samples are from
one distribution, P(right about x) + P(right about y) = 1, and the number of right answers is less spread than Binomial(t, 1/2)
(Hoeffding 1956, Ann. Math. Stat. 27, theorem 4). So in each half
    p = P(Binomial(t, 1/2) >= right)      and Clopper & Pearson's interval (1934, Biometrika 26)
are exact, conservative at most. The halves depend on each other: twice the smaller p-value, and the mean of two intervals of
97.5 %, hold whatever their dependence (Bonferroni).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.intervals import LEVEL, Interval
from unnoise.core.random import Streams

FEWEST = 40
"""Rows of each sample that a classifier needs to learn from at all: half of them."""
COLUMNS = 512
"""Of longer rows so many numbers are drawn, once for all, for the classifier to see."""
_TREES, _LEAVES, _BINS, _SPLIT_COLUMNS = 80, 8, 63, 64


@dataclass(frozen=True)
class ClassifierTest:
    """accuracy: the share of right answers about rows not learnt from, 1/2 by guessing, and its 95 % interval."""

    accuracy: Interval
    p_value: float


def classifier_test(x: Tensor, y: Tensor, seed: int = 0) -> ClassifierTest:
    """Rows x (n, ...) and y (m, ...) told apart by gradient-boosted trees; of the larger sample as many rows as of the smaller.

    Trees see what a linear classifier does not (a shape, a spread, noise) and mind neither scales nor constant numbers.
    Raises InputError with fewer than 40 rows of either, or rows of different lengths.
    """
    try:
        from scipy.stats import binomtest
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError as e:
        raise InputError('the classifier two-sample test needs scikit-learn: pip install "unnoise[table]"') from e
    halves, t = _halves(x, y, seed)
    truth = np.arange(t) >= t // 2
    share = min(1.0, _SPLIT_COLUMNS / halves[0].shape[1])
    found = []
    for learnt, asked in (halves, halves[::-1]):
        trees = HistGradientBoostingClassifier(
            max_iter=_TREES, max_leaf_nodes=_LEAVES, max_bins=_BINS, max_features=share, early_stopping=False, random_state=seed
        )
        right = int((trees.fit(learnt, truth).predict(asked) == truth).sum())
        result = binomtest(right, t, 0.5, alternative="greater")
        # the two-sided interval of one half; the test itself asks for accuracies above 1/2
        interval = binomtest(right, t).proportion_ci((1 + LEVEL) / 2, method="exact")
        found.append((right / t, float(interval.low), float(interval.high), float(result.pvalue)))
    value, low, high, _ = (sum(f) / 2 for f in zip(*found))
    return ClassifierTest(Interval(value, low, high), min(1.0, 2 * min(f[3] for f in found)))


def _halves(x: Tensor, y: Tensor, seed: int) -> tuple[tuple[np.ndarray, np.ndarray], int]:
    """Two disjoint halves, in each the same number of rows of x and then of y, and how many rows a half has."""
    x, y = (v.detach().cpu().float().reshape(len(v), -1) for v in (x, y))
    if x.shape[1] != y.shape[1]:
        raise InputError(f"samples of {x.shape[1]} and of {y.shape[1]} numbers a row cannot be compared")
    each = min(len(x), len(y)) // 2
    if 2 * each < FEWEST:
        raise InputError(f"samples of {len(x)} and {len(y)} rows: a classifier that tells them apart needs {FEWEST} of each")
    u = Streams.of(seed, 1)
    width = x.shape[1]
    columns = u.uniform("columns", (width,))[0].argsort()[:COLUMNS] if width > COLUMNS else torch.arange(width)
    rows_x, rows_y = (u.uniform(name, (len(v),))[0].argsort() for name, v in (("first", x), ("second", y)))
    if not bool(x.isfinite().all() and y.isfinite().all()):
        raise InputError("a sample to be compared holds values that are not finite numbers")

    def half(rows: slice) -> np.ndarray:
        return torch.cat([x[rows_x[rows]][:, columns], y[rows_y[rows]][:, columns]]).numpy()

    return (half(slice(each)), half(slice(each, 2 * each))), 2 * each

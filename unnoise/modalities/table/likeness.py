"""How alike two tables of the same columns are, column by column and pair by pair.

    column shapes   1 - sup |F - G| (Kolmogorov-Smirnov) for numbers, 1 - sum |p - q| / 2 (total variation) for categories
    pair trends     1 - |r - r'| / 2 for Pearson correlations of two columns of numbers; 1 - sum |p_ij - q_ij| / 2 of the joint
                    frequencies where a column is of categories (numbers are then put into ten bins)
They are those of SDMetrics (Column Shapes, Column Pair Trends; docs.sdv.dev/sdmetrics): 0 ... 1, and 1 is best.
Missing values: left out of a number's shape and of correlations, a category of their own elsewhere.
"""

from itertools import combinations

import numpy as np

from unnoise.modalities.table.columns import Categorical, Column, Numeric, Table, modelled

_BINS = 10


def column_shapes(real: Table, fake: Table) -> dict[str, float]:
    """For every modelled column, how alike its two distributions are, 0 ... 1."""
    return {c.name: _shape(c, real, fake) for c in modelled(real, fake)}


def pair_trends(real: Table, fake: Table) -> dict[tuple[str, str], float]:
    """For every pair of modelled columns, how alike their dependences are, 0 ... 1.

    A pair of numbers without a correlation in the real table is left out; a made column that does not vary depends on nothing.
    """
    columns = modelled(real, fake)
    numbers = [c for c in columns if isinstance(c, Numeric)]
    together = correlations(real, numbers), correlations(fake, numbers)
    place = {c.name: i for i, c in enumerate(numbers)}
    codes = {c.name: _codes(c, real, fake) for c in columns}
    out = {}
    for a, b in combinations(columns, 2):
        if isinstance(a, Numeric) and isinstance(b, Numeric):
            r, f = (m[place[a.name], place[b.name]] for m in together)
            if not np.isnan(r):
                out[a.name, b.name] = 1 - abs(float(r - np.nan_to_num(f))) / 2
        else:
            (a_real, a_fake), (b_real, b_fake) = codes[a.name], codes[b.name]
            width = 1 + max(int(v.max()) for v in (b_real, b_fake))
            out[a.name, b.name] = 1 - _total_variation(a_real * width + b_real, a_fake * width + b_fake)
    return out


def mean_score(scores: dict[str, float] | dict[tuple[str, str], float]) -> float:
    """Their mean: the one figure that is published."""
    return float(np.mean(list(scores.values())))


def _shape(c: Column, real: Table, fake: Table) -> float:
    r, f = real.of(c).numpy(), fake.of(c).numpy()
    if isinstance(c, Categorical):
        return 1 - _total_variation(r, f)
    r, f = np.sort(r[~np.isnan(r)]), np.sort(f[~np.isnan(f)])
    if len(r) == 0 or len(f) == 0:
        return float(len(r) == len(f))
    x = np.concatenate([r, f])
    gap = np.searchsorted(r, x, "right") / len(r) - np.searchsorted(f, x, "right") / len(f)
    return 1 - float(np.abs(gap).max())


def _total_variation(a: np.ndarray, b: np.ndarray) -> float:
    n = 1 + int(max(a.max(), b.max()))
    return 0.5 * float(np.abs(np.bincount(a, minlength=n) / len(a) - np.bincount(b, minlength=n) / len(b)).sum())


def correlations(table: Table, columns: list[Numeric]) -> np.ndarray:
    """Pearson's, over the rows in which both are there; NaN where one does not vary."""
    if not columns:
        return np.empty((0, 0))
    x = np.ma.masked_invalid(np.stack([table.of(c).numpy() for c in columns], 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.ma.filled(np.ma.corrcoef(x, rowvar=False), np.nan)


def _codes(c: Numeric | Categorical, real: Table, fake: Table) -> tuple[np.ndarray, np.ndarray]:
    """Both columns as categories; numbers in bins of equal width over the real ones, those outside in the outermost."""
    r, f = real.of(c).numpy(), fake.of(c).numpy()
    if isinstance(c, Categorical):
        return r, f
    present = r[~np.isnan(r)]
    edges = np.linspace(present.min(), present.max(), _BINS + 1)[1:-1] if len(present) else np.zeros(_BINS - 1)
    binned = [np.where(np.isnan(v), _BINS, np.searchsorted(edges, v, "right")) for v in (r, f)]
    return binned[0], binned[1]

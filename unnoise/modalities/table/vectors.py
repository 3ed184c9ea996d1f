"""Rows of a table as vectors whose Euclidean distance means something: what classifiers and nearest neighbours see.

    numbers     normal scores: z = Phi^-1(F(x)), F the reference's distribution function at mid-ranks (n_below + n_equal / 2) / n,
                linear between (van der Waerden 1952); however heavy the tails or the skew, z is about standard normal.
                Beyond the reference's range z goes on by (x - end) / std, so that what lies outside stays visible, up to +-6
    missing     0, the mean, and where a column can have missing ones a column more: 1 is missing
    categories  one-hot, "is missing" being a category more
Two random standard normals differ by 2 in the mean square, and so do two one-hot vectors of unlike categories: a category that is
not the same costs as much as a typical difference of a number.
"""

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Categorical, Numeric, Table, modelled

_FARTHEST = 6.0


def vectors(table: Table, reference: Table, without: str | None = None) -> np.ndarray:
    """(B, F) float64; `reference` decides the scale and, by its columns, F. without: a column that is left out."""
    parts = []
    for c, own in zip(modelled(reference, table), modelled(table)):
        if c.name == without:
            continue
        x = table.of(c).numpy()
        if isinstance(c, Categorical):
            parts.append(np.eye(len(c.categories) + 1)[x][:, : c.size])
        elif isinstance(c, Numeric) and isinstance(own, Numeric):
            z = normal_scores(x, reference.of(c).numpy())
            parts.append(np.nan_to_num(z)[:, None])
            if c.missing is not None:
                parts.append(np.isnan(x).astype(float)[:, None])
    return np.concatenate(parts, 1) if parts else np.empty((len(table), 0))


def normal_scores(x: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """z of x (B,), by the distribution of `reference` (n,); NaN stays NaN in the first and does not count in the second."""
    try:
        from scipy.special import ndtri
    except ImportError as e:
        raise InputError('measures of tables need scikit-learn: pip install "unnoise[table]"') from e
    known, count = np.unique(reference[~np.isnan(reference)], return_counts=True)
    if len(known) == 0:
        return np.where(np.isnan(x), np.nan, 0.0)
    z = ndtri((count.cumsum() - count / 2) / count.sum())
    scale = np.average((known - np.average(known, weights=count)) ** 2, weights=count) ** 0.5 or 1.0
    beyond = (x - x.clip(known[0], known[-1])) / scale
    return (np.interp(x, known, z) + beyond).clip(-_FARTHEST, _FARTHEST)

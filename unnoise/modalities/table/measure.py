"""How alike two tables of the same columns are: column by column, pair by pair, and to a classifier.

    column shapes   1 - sup |F - G| (Kolmogorov-Smirnov) for numbers, 1 - sum |p - q| / 2 (total variation) for categories
    pair trends     1 - |r - r'| / 2 for Pearson correlations of two columns of numbers; 1 - sum |p_ij - q_ij| / 2 of the joint
                    frequencies where a column is of categories (numbers are then put into ten bins)
    detection       area under the ROC curve of a logistic regression that tells the two tables apart, on rows held out
The first two are those of SDMetrics (Column Shapes, Column Pair Trends; docs.sdv.dev/sdmetrics): 1 is best. Detection: 0.5 is best.
Missing values: left out of a number's shape and of correlations, a category of their own elsewhere.
"""

from itertools import combinations

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Categorical, Column, Numeric, Table

_BINS = 10


def column_shapes(real: Table, fake: Table) -> dict[str, float]:
    """For every modelled column, how alike its two distributions are, 0 ... 1."""
    return {c.name: _shape(c, real, fake) for c in _modelled(real, fake)}


def pair_trends(real: Table, fake: Table) -> dict[tuple[str, str], float]:
    """For every pair of modelled columns, how alike their dependences are, 0 ... 1. A pair without a correlation is left out."""
    columns = _modelled(real, fake)
    numbers = [c for c in columns if isinstance(c, Numeric)]
    together = correlations(real, numbers), correlations(fake, numbers)
    place = {c.name: i for i, c in enumerate(numbers)}
    codes = {c.name: _codes(c, real, fake) for c in columns}
    out = {}
    for a, b in combinations(columns, 2):
        if isinstance(a, Numeric) and isinstance(b, Numeric):
            r, f = (m[place[a.name], place[b.name]] for m in together)
            if not np.isnan(r) and not np.isnan(f):
                out[a.name, b.name] = 1 - abs(float(r - f)) / 2
        else:
            (a_real, a_fake), (b_real, b_fake) = codes[a.name], codes[b.name]
            width = 1 + max(int(v.max()) for v in (b_real, b_fake))
            out[a.name, b.name] = 1 - _total_variation(a_real * width + b_real, a_fake * width + b_fake)
    return out


def mean_score(scores: dict[str, float] | dict[tuple[str, str], float]) -> float:
    """Their mean: the one figure that is published."""
    return float(np.mean(list(scores.values())))


def detection(real: Table, fake: Table, folds: int = 3, seed: int = 0) -> float:
    """Area under the ROC curve, 0.5 (cannot be told apart) ... 1 (always), of a logistic regression, on held-out rows.

    It sees numbers (standardised by the real rows, missing ones as their mean), their being missing, and categories, one-hot.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
    except ImportError as e:
        raise InputError('the detection score needs scikit-learn: pip install "unnoise[table]"') from e
    features = np.concatenate([_features(t, real) for t in (real, fake)])
    truth = np.concatenate([np.ones(len(real)), np.zeros(len(fake))])
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    model = LogisticRegression(max_iter=2000)
    said = cross_val_predict(model, features, truth, cv=cut, method="predict_proba")[:, 1]
    return max(float(roc_auc_score(truth, said)), 0.5)


def _modelled(real: Table, fake: Table) -> list[Numeric | Categorical]:
    if real.columns != fake.columns:
        raise InputError("two tables are compared that do not have the same columns")
    return [c for c in real.columns if isinstance(c, Numeric | Categorical)]


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
    edges = np.linspace(np.nanmin(r), np.nanmax(r), _BINS + 1)[1:-1]
    binned = [np.where(np.isnan(v), _BINS, np.searchsorted(edges, v, "right")) for v in (r, f)]
    return binned[0], binned[1]


def _features(table: Table, real: Table) -> np.ndarray:
    out = []
    for c in table.columns:
        if isinstance(c, Numeric):
            v, r = table.of(c).numpy(), real.of(c).numpy()
            out += [np.nan_to_num((v - np.nanmean(r)) / (np.nanstd(r) or 1)), np.isnan(v).astype(float)]
        elif isinstance(c, Categorical):
            out += list(np.eye(c.size)[table.of(c).numpy()].T)
    return np.stack(out, 1)

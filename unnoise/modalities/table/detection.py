"""Can a classifier tell made rows from real ones? The area under its ROC curve on rows that it has not learnt from.

Cross-validated over both tables pooled, as SDMetrics' Detection metrics are (there 1 - 2 (A - 1/2) is printed); the classifier
two-sample test of Lopez-Paz & Oquab 2017 (1610.06545) with the area for the accuracy, which does not mind unequal tables.
"""

from dataclasses import dataclass

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Table
from unnoise.modalities.table.learners import Learner, Linear, area, area_error
from unnoise.modalities.table.vectors import vectors


@dataclass(frozen=True)
class Area:
    """0.5 (cannot be told apart) ... 1 (always). low, high: the 95 % interval."""

    value: float
    low: float
    high: float


def detection(
    real: Table, fake: Table, learner: Learner = Linear(), folds: int = 3, seed: int = 0, reference: Table | None = None
) -> Area:
    """reference: the rows that give the vectors their scale; by default `real`. An area below 0.5 is 0.5: nothing was found.

    Raises InputError with fewer than two rows of either table to a fold.
    """
    try:
        from sklearn.model_selection import StratifiedKFold
    except ImportError as e:
        raise InputError('the detection score needs scikit-learn: pip install "unnoise[table]"') from e
    if min(len(real), len(fake)) < 2 * folds:
        raise InputError(f"{len(real)} real and {len(fake)} made rows are too few for {folds} folds: {2 * folds} of each at least")
    x = np.concatenate([vectors(t, real if reference is None else reference) for t in (real, fake)])
    truth = np.arange(len(x)) < len(real)
    said = np.empty(len(x))
    for learnt, asked in StratifiedKFold(folds, shuffle=True, random_state=seed).split(x, truth):
        said[asked] = learner.classifier(seed).fit(x[learnt], truth[learnt]).predict_proba(x[asked])[:, 1]
    value, error = area(said, truth), 1.96 * area_error(said, truth)
    return Area(max(value, 0.5), max(value - error, 0.5), min(max(value + error, 0.5), 1.0))

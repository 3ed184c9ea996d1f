"""Two classifiers and two regressions that everybody has, to learn from tables: one straight, one that bends.

    linear    logistic regression, ridge regression                               (L2 penalty of scikit-learn's default, 1)
    boosted   histogram gradient boosting, 100 trees                              (Friedman 2001; as LightGBM, Ke et al. 2017)
And the area under the ROC curve with its doubt:
    A = P(score of a positive > of a negative) + P(equal) / 2 = mean over positives of V10 = mean over negatives of V01
    var A = var(V10) / n+ + var(V01) / n-                                    (DeLong, DeLong & Clarke-Pearson 1988, Biometrics 44)
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from unnoise.core.errors import InputError

_NEEDS = 'this measure needs scikit-learn: pip install "unnoise[table]"'


class Learner(ABC):
    """A frozen dataclass; its models have scikit-learn's `fit`, `predict` and `predict_proba`."""

    name: str

    @abstractmethod
    def classifier(self, seed: int) -> Any: ...

    @abstractmethod
    def regression(self, seed: int) -> Any: ...


@dataclass(frozen=True)
class Linear(Learner):
    name = "linear"

    def classifier(self, seed: int) -> Any:
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as e:
            raise InputError(_NEEDS) from e
        return LogisticRegression(max_iter=2000, random_state=seed)

    def regression(self, seed: int) -> Any:
        try:
            from sklearn.linear_model import Ridge
        except ImportError as e:
            raise InputError(_NEEDS) from e
        return Ridge(random_state=seed)


@dataclass(frozen=True)
class Boosted(Learner):
    name = "boosted"

    def classifier(self, seed: int) -> Any:
        try:
            from sklearn.ensemble import HistGradientBoostingClassifier
        except ImportError as e:
            raise InputError(_NEEDS) from e
        return HistGradientBoostingClassifier(early_stopping=False, random_state=seed)

    def regression(self, seed: int) -> Any:
        try:
            from sklearn.ensemble import HistGradientBoostingRegressor
        except ImportError as e:
            raise InputError(_NEEDS) from e
        return HistGradientBoostingRegressor(early_stopping=False, random_state=seed)


def probabilities(learner: Learner, x: np.ndarray, y: np.ndarray, asked: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """(len(asked), classes): learnt from x (N, F) and y (N,) in 0 ... classes - 1; classes that y lacks have none."""
    out = np.zeros((len(asked), classes))
    present = np.unique(y)
    if len(present) == 1:
        out[:, present[0]] = 1
        return out
    model = learner.classifier(seed).fit(x, y)
    out[:, model.classes_.astype(int)] = model.predict_proba(asked)
    return out


def placements(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V10 (n+,), the share of negatives that each positive beats, and V01 (n-,), the share of positives that beat each negative."""
    pos, neg = np.sort(scores[positive]), np.sort(scores[~positive])

    def below(x: np.ndarray, others: np.ndarray) -> np.ndarray:
        return (np.searchsorted(others, x, "left") + np.searchsorted(others, x, "right")) / (2 * len(others))

    return below(pos, neg), 1 - below(neg, pos)


def area(scores: np.ndarray, positive: np.ndarray) -> float:
    """Under the ROC curve, 0 ... 1; there must be rows of both kinds."""
    return float(placements(scores, positive)[0].mean())


def area_error(scores: np.ndarray, positive: np.ndarray) -> float:
    """Its standard error; infinite with fewer than two rows of a kind."""
    v10, v01 = placements(scores, positive)
    if min(len(v10), len(v01)) < 2:
        return float("inf")
    return float(np.sqrt(v10.var(ddof=1) / len(v10) + v01.var(ddof=1) / len(v01)))

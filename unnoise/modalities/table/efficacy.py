"""Machine-learning efficacy: what a model that has learnt from made rows can do on real ones, beside one that learnt from real.

Train on synthetic, test on real (Esteban et al. 2017, 1706.02633; for tables Xu et al. 2019, 1907.00503). One column is foretold
from all others: categories by their area under the ROC curve (one class against the rest, mean over the classes) and the share of
hits, numbers by R^2 = 1 - sum (y - y^)^2 / sum (y - mean y)^2. Intervals: 95 % of 500 bootstrap draws of the tested rows, the same
draws for both models, so that what is lost has an interval of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Categorical, Numeric, Table, modelled
from unnoise.modalities.table.learners import Boosted, Learner, area, probabilities
from unnoise.modalities.table.vectors import vectors

_DRAWS = 500


@dataclass(frozen=True)
class Efficacy:
    """One score (1 is perfect) of a model that learnt from made rows. real: of the one that learnt from real. Each with low, high.

    lost: real - made, and its interval.
    """

    name: str
    made: tuple[float, float, float]
    real: tuple[float, float, float]
    lost: tuple[float, float, float]


def default_target(table: Table) -> str:
    """The last column of categories, or else of numbers: tables tend to end with what is to be foretold."""
    columns = modelled(table)
    kinds = [c for c in columns if isinstance(c, Categorical)] or columns
    return kinds[-1].name


def efficacy(real: Table, made: Table, test: Table, target: str, learner: Learner = Boosted(), seed: int = 0) -> list[Efficacy]:
    """For categories "AUC" and "accuracy", for numbers "R2". Rows whose target is missing are left out.

    Raises InputError where there is no such column, none other, or nothing to foretell: one class only, too few rows.
    """
    columns = {c.name: c for c in modelled(real, made, test)}
    if target not in columns:
        raise InputError(f"there is no column {target!r} to be foretold; there are {', '.join(columns)}")
    if len(columns) < 2:
        raise InputError(f"{target!r} is the only column: there is nothing to foretell it from")
    column = columns[target]
    tables = [_known(t, column) for t in (real, made, test)]
    for t, what in zip(tables, ("real", "made", "held-out")):
        if len(t) < 10:
            raise InputError(f"{target!r} is known of {len(t)} {what} rows: too few to learn or test, at least 10 are needed")
    x_real, x_made, x_test = (vectors(t, tables[0], target) for t in tables)
    y_real, y_made, y_test = (t.of(column).numpy() for t in tables)
    if isinstance(column, Numeric):
        if min(np.ptp(y_real), np.ptp(y_test)) == 0:
            raise InputError(f"{target!r} does not vary: there is nothing to foretell")
        said = [learner.regression(seed).fit(x, y).predict(x_test) for x, y in ((x_real, y_real), (x_made, y_made))]
        return [_score("R2", _determination, y_test, said[0], said[1], seed)]
    if len(np.unique(y_real)) < 2 or len(np.unique(y_test)) < 2:
        raise InputError(
            f"the real rows to learn from, or to test on, have one value only of {target!r}: there is nothing to foretell"
        )
    n = len(column.categories)
    said = [probabilities(learner, x, y, x_test, n, seed) for x, y in ((x_real, y_real), (x_made, y_made))]
    return [
        _score("AUC", _macro_area, y_test, said[0], said[1], seed),
        _score("accuracy", _hits, y_test, said[0], said[1], seed),
    ]


def _known(table: Table, column: Numeric | Categorical) -> Table:
    y = table.of(column)
    return table[~y.isnan() if isinstance(column, Numeric) else y < len(column.categories)]


def _score(
    name: str, score: Callable[[np.ndarray, np.ndarray], float], y: np.ndarray, real: np.ndarray, made: np.ndarray, seed: int
) -> Efficacy:
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(_DRAWS):
        rows = rng.integers(0, len(y), len(y))
        drawn.append((score(y[rows], made[rows]), score(y[rows], real[rows])))
    m, r = score(y, made), score(y, real)
    # a draw may lack a class: it then has no score
    spread = np.nanquantile(np.array([(a, b, b - a) for a, b in drawn]), (0.025, 0.975), axis=0)
    return Efficacy(name, *((v, float(spread[0, i]), float(spread[1, i])) for i, v in enumerate((m, r, r - m))))


def _macro_area(y: np.ndarray, p: np.ndarray) -> float:
    """One against the rest, mean over the classes that are there; two classes have but one area."""
    present = np.unique(y)
    if len(present) < 2:
        return float("nan")
    asked = present[1:] if p.shape[1] == 2 else present
    return float(np.mean([area(p[:, k], y == k) for k in asked]))


def _hits(y: np.ndarray, p: np.ndarray) -> float:
    return float((p.argmax(1) == y).mean())


def _determination(y: np.ndarray, said: np.ndarray) -> float:
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - said) ** 2).sum()) / spread if spread else float("nan")

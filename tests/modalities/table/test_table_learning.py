"""Detection and efficacy against areas that theory gives, and against scikit-learn and scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Categorical, Column, Numeric, Table
from unnoise.modalities.table.detection import detection
from unnoise.modalities.table.efficacy import default_target, efficacy
from unnoise.modalities.table.learners import Boosted, Linear, area, area_error, probabilities
from unnoise.modalities.table.vectors import vectors

X, Y = (Numeric(n, (0.0, 1.0), (0.0, 1.0), 3, 0, 1) for n in "xy")
C = Categorical("class", ("a", "b"))


def numbers(*columns: np.ndarray) -> Table:
    return Table(
        (X, Y)[: len(columns)], torch.from_numpy(np.stack(columns, 1)), torch.empty((len(columns[0]), 0), dtype=torch.int64)
    )


def labelled(seed: int, n: int, apart: float) -> Table:
    """x is normal about +-apart/2 by class, y a normal that says nothing."""
    rng = np.random.default_rng(seed)
    c = rng.integers(0, 2, n)
    x = rng.normal(size=n) + apart * (c - 0.5)
    columns: tuple[Column, ...] = (X, Y, C)
    return Table(columns, torch.from_numpy(np.stack([x, rng.normal(size=n)], 1)), torch.from_numpy(c[:, None]))


def test_the_area_and_its_error_are_those_of_pairs() -> None:
    """Mann and Whitney's U over n m, and DeLong's variance from the matrix of all pairs."""
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=90).round(1), rng.random(90) < 0.4  # rounded, so that some are equal
    pos, neg = scores[positive], scores[~positive]
    assert area(scores, positive) == pytest.approx(stats.mannwhitneyu(pos, neg).statistic / (len(pos) * len(neg)))
    beats = (pos[:, None] > neg) + 0.5 * (pos[:, None] == neg)
    want = beats.mean(1).var(ddof=1) / len(pos) + beats.mean(0).var(ddof=1) / len(neg)
    assert area_error(scores, positive) == pytest.approx(np.sqrt(want))


def test_only_boosting_sees_a_difference_of_dependence() -> None:
    """Real rows have x y > 0, made ones x y < 0, all else equal: every straight line finds half of each, and trees find all.

    A line's area is 0.5 +- 0.024 (n = m = 300; Birnbaum & Klose's bound), five of which have a probability of 6e-7.
    """
    rng = np.random.default_rng(1)
    x, y = np.abs(rng.normal(size=(2, 600))) * rng.choice([-1, 1], 600)
    real, made = numbers(x[:300], y[:300]), numbers(x[300:], -y[300:])
    straight, bent = detection(real, made, Linear()), detection(real, made, Boosted())
    assert straight.value < 0.5 + 5 * 0.024
    assert bent.value > 0.95
    assert bent.low <= bent.value <= bent.high


def test_detection_sees_values_outside_the_data_and_missing_ones() -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(size=400)
    assert detection(numbers(x[:200]), numbers(x[200:] + 2)).value == 1
    gappy = Numeric("x", (0.0, 1.0), (0.0, 1.0), 3, 0, 1, missing="")
    whole = Table((gappy,), torch.from_numpy(x[:200, None]), torch.empty((200, 0), dtype=torch.int64))
    holes = Table((gappy,), torch.full((200, 1), torch.nan, dtype=torch.float64), whole.categorical)
    assert detection(whole, holes).value == 1


def test_detection_refuses_too_few_rows() -> None:
    with pytest.raises(InputError, match="5 real and 200 made rows are too few for 3 folds"):
        detection(numbers(np.zeros(5)), numbers(np.zeros(200)))


def test_efficacy_is_the_area_that_theory_gives() -> None:
    """Classes `apart` from each other: the best area is Phi(apart / sqrt 2) (Bamber 1975), from real rows and from made ones.

    Standard deviation on 2000 rows below sqrt(A (1 - A) / 1000) = 0.0135; what a line loses by learning from 1000 rows in two
    dimensions is of the order of 1/1000. Five standard deviations: 6e-7 each.
    """
    real, made, test = labelled(0, 1000, 1.5), labelled(1, 1000, 1.5), labelled(2, 2000, 1.5)
    best = stats.norm.cdf(1.5 / np.sqrt(2))
    auc, accuracy = efficacy(real, made, test, "class", Linear())
    assert (auc.name, accuracy.name) == ("AUC", "accuracy")
    for value, low, high in (auc.real, auc.made):
        assert value == pytest.approx(best, abs=5 * 0.0135 + 0.005)
        assert low <= value <= high
    assert accuracy.made[0] == pytest.approx(stats.norm.cdf(0.75), abs=5 * 0.0094 + 0.005)  # sqrt(p (1 - p) / 2000)
    assert auc.lost[0] == pytest.approx(auc.real[0] - auc.made[0])


def test_what_made_rows_do_not_know_is_lost() -> None:
    """Classes 3 apart: from real rows a line has the area Phi(3 / sqrt 2) = 0.983 +- 0.006; with classes turned about, 0.017."""
    real, made, test = labelled(0, 600, 3.0), labelled(1, 600, 3.0), labelled(2, 1000, 3.0)
    wrong = Table(made.columns, made.numeric, 1 - made.categorical)
    auc = efficacy(real, wrong, test, "class", Linear())[0]
    best = stats.norm.cdf(3 / np.sqrt(2))
    assert auc.real[0] == pytest.approx(best, abs=5 * 0.006 + 0.005)
    assert auc.made[0] == pytest.approx(1 - best, abs=5 * 0.006 + 0.005)
    assert auc.lost[1] > 0.9  # the whole interval


def test_a_class_that_was_never_made_has_no_probability() -> None:
    p = probabilities(Linear(), np.array([[0.0], [1], [2], [3]]), np.array([0, 0, 2, 2]), np.array([[0.0], [3]]), 4, 0)
    assert (p[:, [1, 3]] == 0).all()
    assert p.argmax(1).tolist() == [0, 2]
    assert probabilities(Boosted(), np.zeros((5, 1)), np.full(5, 1), np.zeros((2, 1)), 3, 0).tolist() == [[0, 1, 0]] * 2


def test_several_classes_have_the_mean_of_their_areas() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(4)
    many = Categorical("kind", ("a", "b", "c"))

    def rows(n: int) -> Table:
        c = rng.integers(0, 3, n)
        return Table((X, many), torch.from_numpy(rng.normal(size=(n, 1)) + c[:, None]), torch.from_numpy(c[:, None]))

    real, made, test = rows(200), rows(150), rows(300)
    auc = efficacy(real, made, test, "kind", Linear())[0]
    model = LogisticRegression(max_iter=2000).fit(vectors(made, real, "kind"), made.categorical[:, 0].numpy())
    said = model.predict_proba(vectors(test, real, "kind"))
    assert auc.made[0] == pytest.approx(roc_auc_score(test.categorical[:, 0].numpy(), said, multi_class="ovr"))


def test_numbers_are_foretold_by_their_share_of_variance() -> None:
    """y = 2 x + noise: R^2 = 4 / 5. Its standard deviation on 3000 rows is about 2 sqrt(R^2) (1 - R^2) / sqrt n = 0.0065."""
    rng = np.random.default_rng(5)

    def rows(n: int) -> Table:
        x = rng.normal(size=n)
        return numbers(x, 2 * x + rng.normal(size=n))

    (score,) = efficacy(rows(2000), rows(2000), rows(3000), "y", Linear())
    assert score.name == "R2"
    # x is seen as its normal scores, which follow it to the order of 1 / sqrt n
    assert score.made[0] == pytest.approx(0.8, abs=5 * 0.0065 + 0.01)
    assert score.real[0] == pytest.approx(0.8, abs=5 * 0.0065 + 0.01)


def test_the_target_is_the_last_column_of_categories() -> None:
    assert default_target(labelled(0, 10, 1.0)) == "class"
    assert default_target(numbers(np.zeros(3), np.zeros(3))) == "y"
    with pytest.raises(InputError, match="no column 'z' to be foretold; there are x, y, class"):
        efficacy(*[labelled(0, 50, 1.0)] * 3, "z")


def test_rows_whose_target_is_missing_teach_nothing() -> None:
    gappy = Categorical("class", ("a", "b"), missing="")
    columns: tuple[Column, ...] = (X, Y, gappy)
    whole, test = labelled(0, 300, 2.0), labelled(1, 300, 2.0)
    extra = torch.cat([whole.categorical, torch.full((100, 1), 2)])
    holes = Table(columns, torch.cat([whole.numeric, torch.zeros(100, 2).double()]), extra)
    got = efficacy(holes, holes, Table(columns, test.numeric, test.categorical), "class", Linear())
    want = efficacy(whole, whole, test, "class", Linear())
    assert got == want

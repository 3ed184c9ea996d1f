"""Rows to be measured: their vectors against scipy, their attributes, their picture, and what is said where little can be had."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Categorical, Column, Numeric, Table
from unnoise.modalities.table.halves import half_error
from unnoise.modalities.table.likeness import pair_trends
from unnoise.modalities.table.measure import TableRows
from unnoise.modalities.table.vectors import normal_scores, vectors

X, Y = (Numeric(n, (0.0, 1.0), (0.0, 1.0), 3, 0, 1) for n in "xy")
G = Numeric("gappy", (0.0, 1.0), (0.0, 1.0), 3, 0, 1, missing="")
C, D = Categorical("c", ("a", "b", "d")), Categorical("diagnosis", ("no", "yes"), missing="?")


def table(columns: tuple[Column, ...], numbers: list[np.ndarray], codes: list[np.ndarray]) -> Table:
    n = len((numbers or codes)[0])
    return Table(
        columns,
        torch.from_numpy(np.stack(numbers, 1) if numbers else np.empty((n, 0))),
        torch.from_numpy(np.stack(codes, 1) if codes else np.empty((n, 0), dtype=np.int64)),
    )


def mixed(seed: int, n: int, shift: float = 0.0) -> Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(shift, 1, n)
    diagnosis = (x + rng.normal(size=n) > shift).astype(np.int64)
    return table((X, Y, C, D), [x, x + rng.normal(size=n)], [rng.integers(0, 3, n), diagnosis])


# -- vectors -----------------------------------------------------------------------------------------------------------------


def test_numbers_become_their_normal_scores_whatever_their_unit_and_tails() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_cauchy(501)
    scores = stats.norm.ppf((stats.rankdata(x) - 0.5) / len(x))
    assert normal_scores(x, x) == pytest.approx(scores, abs=1e-12)
    assert normal_scores(np.exp(np.arctan(x)), np.exp(np.arctan(x))) == pytest.approx(scores, abs=1e-12)


def test_equal_numbers_share_their_mean_rank() -> None:
    x = np.array([0.0, 0, 0, 5, 7, 7])
    assert normal_scores(x, x) == pytest.approx(stats.norm.ppf((stats.rankdata(x) - 0.5) / 6))


def test_numbers_beyond_the_reference_go_on_rising_up_to_a_bound() -> None:
    reference = np.array([-1.0, 0, 1])
    z = normal_scores(np.array([1.0, 1.5, 2, 1e9, -1e9]), reference)
    assert z[0] < z[1] < z[2] < z[3] == 6 == -z[4]
    assert z[2] - z[0] == pytest.approx(1 / np.sqrt(2 / 3))  # one unit, in standard deviations


def test_a_constant_column_and_an_empty_one_are_zero() -> None:
    assert (normal_scores(np.array([3.0, 3]), np.array([3.0, 3])) == 0).all()
    assert normal_scores(np.array([3.0, np.nan]), np.array([np.nan]))[0] == 0


def test_other_categories_cost_as_much_as_two_random_numbers_differ() -> None:
    """Mean square difference of standard normals: 2; of unlike one-hot vectors: 2."""
    rows = table((X, C), [stats.norm.ppf((np.arange(1000) + 0.5) / 1000)], [np.arange(1000) % 3])
    v = vectors(rows, rows)
    x = v[:, 0]
    assert ((x[:, None] - x) ** 2).mean() == pytest.approx(2, rel=0.01)
    one, two, again = v[0, 1:], v[1, 1:], v[3, 1:]
    assert ((one - two) ** 2).sum() == 2
    assert (one == again).all()


def test_missing_numbers_are_the_mean_and_have_a_column_that_says_so() -> None:
    rows = table((G, X), [np.array([1.0, np.nan, 3]), np.array([1.0, 2, 3])], [])
    v = TableRows.of(rows).tensor(TableRows.of(rows))
    assert v.dtype == torch.float32
    assert v[:, 1].tolist() == [0, 1, 0]
    assert v[1, 0] == 0
    assert v[0, 0] == -v[2, 0] != 0


def test_a_missing_category_is_one_more_and_is_not_known_as_an_attribute() -> None:
    rows = TableRows.of(table((D,), [], [np.array([0, 1, 2])]))
    assert rows.tensor(rows).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    (attribute,) = rows.attributes()
    assert (attribute.name, attribute.values) == ("diagnosis", ("no", "yes"))
    assert attribute.codes.tolist() == [0, 1, -1]


def test_rows_can_be_taken_in_any_order() -> None:
    rows = TableRows.of(mixed(0, 30))
    some = rows.take([7, 0, 7])
    assert len(some) == 3
    assert torch.equal(some.tensor(rows), rows.tensor(rows)[[7, 0, 7]])
    assert torch.equal(rows.tensor(rows, [4, 2]), rows.tensor(rows)[[4, 2]])


def test_what_is_not_the_same_table_is_refused() -> None:
    rows = TableRows.of(mixed(0, 30))
    with pytest.raises(InputError, match="only one has 'diagnosis'"):
        rows.tensor(TableRows.of(table((X, Y, C), [np.zeros(3)] * 2, [np.zeros(3, dtype=np.int64)])))
    other = Categorical("c", ("a", "b", "e"))
    codes = [np.zeros(3, dtype=np.int64)] * 2
    with pytest.raises(InputError, match="'c' has not the same categories"):
        rows.tensor(TableRows.of(table((X, Y, other, D), [np.zeros(3)] * 2, codes)))


def test_a_row_is_drawn_with_its_mark_where_its_value_lies() -> None:
    rows = TableRows.of(table((X, C), [np.array([0.0, 1.0])], [np.array([0, 2])]))
    red = [np.argwhere((np.asarray(p).astype(int) == (214, 39, 40)).all(-1))[:, 1] for p in rows.draw([0, 1])]
    assert red[1].mean() - red[0].mean() == pytest.approx(90, abs=1)  # from one end of the line to the other


# -- intervals ---------------------------------------------------------------------------------------------------------------


def test_the_error_of_halves_is_that_of_a_difference_of_means() -> None:
    """sqrt(1/n + 1/m) for unit variances. 40 halves give it to 1 / sqrt(78) = 11 %, the samples' own to 5 %: 5 times 12 %."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=400), rng.normal(size=200)
    error = half_error(lambda keep: float(x[keep[0]].mean() - y[keep[1]].mean()), [400, 200])
    assert error == pytest.approx(math.sqrt(1 / 400 + 1 / 200), rel=0.6)


# -- all measures ------------------------------------------------------------------------------------------------------------


def test_all_measures_of_rows_from_the_same_source_lie_at_their_floors() -> None:
    """Three tables from one distribution. Detection: z beyond 5 standard errors (of 0.026 here) has probability 6e-7 each."""
    train, held, made = (TableRows.of(mixed(s, 250)) for s in (0, 1, 2))
    found = {m.name: m for m in train.measures(held, made)}
    assert all(math.isfinite(m.value) for m in found.values())
    assert all(m.low <= m.value <= m.high for m in found.values() if m.low is not None and m.high is not None)
    for by in ("logistic regression", "gradient boosting"):
        assert found[f"detection by {by}"].value < 0.5 + 5 * 0.026
    assert found["exact copies of training rows"].value == 0
    assert {n.split(":")[0] for n in found if n.startswith("efficacy")} == {
        "efficacy, 'diagnosis' by a boosted model",
        "efficacy, 'diagnosis' by a linear model",
    }


def notes(train: Table, held: Table, made: Table, target: str | None = None) -> dict[str, str]:
    """Names of what was not measured, and why; nothing may warn on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = TableRows.of(train, target).measures(TableRows.of(held), TableRows.of(made))
    assert all(math.isnan(m.value) == m.note.startswith("not measured") for m in found)
    assert any(math.isfinite(m.value) for m in found)
    return {m.name: m.note for m in found if math.isnan(m.value)}


def test_few_rows_are_still_compared_and_the_rest_says_why_not() -> None:
    without = notes(mixed(0, 30), mixed(1, 10), mixed(2, 30))
    assert all("40 real rows are too few" in why for why in without.values())
    assert {"column shapes", "pair trends"}.isdisjoint(without)
    assert any(name.startswith("detection") for name in without)


def test_one_class_only_and_constant_columns() -> None:
    real, made = mixed(0, 100), mixed(1, 100)
    one = Table(real.columns, real.numeric, torch.stack([real.categorical[:, 0], torch.zeros(100, dtype=torch.int64)], 1))
    without = notes(one, one, made)
    assert list(without) == ["efficacy, 'diagnosis' by a boosted model", "efficacy, 'diagnosis' by a linear model"]
    assert all("one value only of 'diagnosis'" in why for why in without.values())
    still = Table(real.columns, torch.ones_like(real.numeric), real.categorical)
    assert notes(still, still, still) == {}
    assert all("'x' does not vary" in why for why in notes(still, still, still, target="x").values())


def test_a_table_of_one_column_and_one_that_is_all_missing() -> None:
    alone = table((X,), [np.random.default_rng(0).normal(size=60)], [])
    without = notes(alone, alone, alone)
    assert "no pair of columns" in without["pair trends"]
    assert "the only column" in without["efficacy, 'x' by a linear model"]
    x = np.random.default_rng(1).normal(size=60)
    empty = table((X, G), [x, np.full(60, np.nan)], [])
    assert "'gappy' is known of 0 real rows" in notes(empty, empty, empty, target="gappy")["efficacy, 'gappy' by a linear model"]


def test_a_made_column_that_does_not_vary_has_no_trend() -> None:
    """Its correlation counts as 0: half of the real one is lost."""
    real = mixed(3, 200)
    flat = Table(real.columns, torch.stack([real.numeric[:, 0], torch.zeros(200).double()], 1), real.categorical)
    r = stats.pearsonr(real.numeric[:, 0], real.numeric[:, 1]).statistic
    assert pair_trends(real, flat)["x", "y"] == pytest.approx(1 - abs(r) / 2)


def test_no_rows_are_refused() -> None:
    rows = TableRows.of(mixed(0, 60))
    with pytest.raises(InputError, match="60 held-out and 0 made rows"):
        rows.measures(rows, rows.take([]))

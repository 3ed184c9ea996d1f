"""The codec: exact both ways, and standard normal in between."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.table.columns import Categorical, Constant, LeftOut, Numeric, RowNumber, Table
from unnoise.modalities.table.infer import infer

N = 2000


def column(cells: list[str], name: str = "x"):
    return infer(name, cells, list(range(2, len(cells) + 2)), "t.csv")


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


COLUMNS = {
    "integers": [str(v) for v in random(0).poisson(30, N)],
    "zero-inflated": [f"{v:.2f}" if v > 0 else "0.00" for v in np.maximum(random(1).normal(0.3, 1, N), 0)],
    "heavy tail": [f"{v:.2f}" for v in random(2).standard_cauchy(N).clip(-900, 900)],
    "multiples of five": [str(5 * v) for v in random(3).integers(3, 40, N)],
    "far apart": [str(v) for v in random(4).choice([1, 2, 3, 50, 1000, 1001, 70000, 70001, 70002, 70003, 70004, 80000], N)],
    "full precision": [repr(float(v)) for v in random(5).normal(size=N)],
    "full precision with a repeated value": [repr(float(v)) if v > 0 else "0.0" for v in random(6).normal(size=N)],
    "some missing": ["?" if i % 7 == 0 else f"{v:.1f}" for i, v in enumerate(random(7).gamma(2, 10, N))],
    "negative": [f"{v:.1f}" for v in random(8).normal(-50, 3, N)],
    "exponents": [f"{v:.2e}" for v in random(9).lognormal(0, 2, N)],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_numbers_come_back_exactly_wherever_in_their_interval_they_are_put(name):
    cells = COLUMNS[name]
    c = column(cells)
    assert isinstance(c, Numeric)
    codec = TableCodecConfig((c,)).build()
    table = Table.parse((c,), [[v] for v in cells])
    truth = np.array([np.nan if v == "?" else float(v) for v in cells])  # Python's own reading of the text
    np.testing.assert_array_equal(table.numeric[:, 0].numpy(), truth)
    # where the digits are more than float32 can tell apart (it resolves z, of order 1, to 1e-7), to that resolution
    tolerance = {"full precision": 3e-6, "full precision with a repeated value": 3e-6}.get(name, 0.0)
    for within in (None, torch.full((N, 1), 0.02), torch.full((N, 1), 0.98)):
        back = codec.decode(codec.encode(table, within)).numeric[:, 0].numpy()
        np.testing.assert_allclose(back, truth, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [k for k in COLUMNS if k != "some missing"])
def test_encoded_numbers_are_standard_normal(name):
    c = column(COLUMNS[name])
    table = Table.parse((c,), [[v] for v in COLUMNS[name]])
    within = Streams.of(0, N).uniform("within", (1,), dtype=torch.float64)
    z = TableCodecConfig((c,)).build().encode(table, within)["numeric"][:, 0].double().numpy()
    # Kolmogorov's limit law: P(sup|F_n - F| > 2.23 / sqrt n) = 2 exp(-2 * 2.23^2) = 1e-4 for independent draws; z is closer than
    # those, being fitted to these rows, so the false-alarm rate is below that.
    assert stats.kstest(z, "norm").statistic < 2.23 / math.sqrt(N)


def test_decoding_normal_noise_draws_from_the_columns_own_distribution():
    """The marginal of Phi^-1-decoded noise is the fitted F: for integers the frequencies of the data, whatever their shape."""
    values = random(10).choice([0, 1, 5, 17, 18, 200], 5000, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    values = np.concatenate([values, np.arange(300, 1500, 100)])  # enough different values not to be codes
    c = column([str(v) for v in values])
    assert isinstance(c, Numeric)
    z = Streams.of(1, 20000).normal("z", (1,))
    back = TableCodecConfig((c,)).build().decode({"numeric": z}).numeric[:, 0].numpy()
    for v in (0, 1, 5, 17, 18, 200):
        p = float((values == v).mean())
        # binomial, 4.5 standard deviations: two-sided 7e-6, six values: 4e-5
        assert abs((back == v).mean() - p) < 4.5 * math.sqrt(p * (1 - p) / 20000)


def test_values_between_those_seen_are_interpolated_and_none_lies_outside():
    c = column([f"{v:.2f}" for v in np.linspace(0, 10, 300)])
    z = torch.linspace(-8, 8, 4001)[:, None]
    back = TableCodecConfig((c,)).build().decode({"numeric": z}).numeric[:, 0].numpy()
    assert back.min() == 0
    assert back.max() == 10
    # F is uniform on [0, 10] up to half a row: |F^-1(u) - 10 u| is at most one spacing, 10 / 299
    np.testing.assert_allclose(back, 10 * stats.norm.cdf(z[:, 0].numpy()), atol=10 / 299 + 0.005)


def test_categories_and_missing_values_come_back_exactly():
    texts = random(11).choice(["red", "green", "blue, dark", "NA"], 500)
    numbers = ["" if i % 3 == 0 else f"{v:.1f}" for i, v in enumerate(random(12).normal(0, 9, 500))]
    columns = (column(list(texts), "colour"), column(numbers, "size"))
    config = TableCodecConfig(columns)
    assert config.sizes == (4, 2)
    rows = list(zip(texts.tolist(), numbers))
    codec = config.build()
    state = codec.encode(Table.parse(columns, rows))
    assert {k: tuple(v.shape[1:]) for k, v in state.items()} == codec.shape() == {"numeric": (1,), "categorical": (2,)}
    same = [(t, "" if n == "" else f"{float(n):.1f}".replace("-0.0", "0.0")) for t, n in rows]
    assert codec.decode(state).rows() == same


def test_a_field_without_columns_is_absent():
    numbers, texts = column(COLUMNS["negative"]), column(["yes", "no"] * 10)
    assert set(TableCodecConfig((numbers,)).build().shape()) == {"numeric"}
    assert set(TableCodecConfig((texts,)).build().shape()) == {"categorical"}
    assert (
        set(TableCodecConfig((texts,)).process().fields)
        == set(TableCodecConfig((texts,)).preconditioner().fields)
        == {"categorical"}
    )
    with pytest.raises(InputError, match="nothing to learn"):
        TableCodecConfig((Constant("c", "7"),))


@pytest.mark.parametrize(
    ("cells", "written"),
    [
        (["1.50", "2.00", "3.25"] * 20, ["1.50", "2.00", "3.25"]),  # always two digits
        (["1.5", "2.0", "3.25"] * 20, ["1.5", "2.0", "3.25"]),  # at least one
        (["1,5", "2", "3,25"] * 20, ["1,5", "2", "3,25"]),  # decimal comma
        (["10", "-20", "35"] * 2, ["10", "-20", "35"]),
        (["1e-3", "0.25", "-3"] * 20, ["0.001", "0.25", "-3"]),
    ],
)
def test_numbers_are_written_as_in_the_data(cells, written):
    c = column(cells)
    assert isinstance(c, Numeric)
    assert c.write(c.parse(cells[:3])) == written


def test_kinds():
    assert isinstance(column([str(i % 4) for i in range(40)]), Categorical)  # codes
    assert isinstance(column([str(i * i) for i in range(40)]), Numeric)
    assert column([str(i + 5) for i in range(40)]) == RowNumber("x", 5)
    assert column(["", "NA", ""] * 5) == Constant("x", "")
    assert column(["ward 3"] * 15) == Constant("x", "ward 3")
    assert column([f"patient {i}" for i in range(40)]) == LeftOut("x")
    assert isinstance(column([f"0{i % 9}" for i in range(40)]), Categorical)  # leading zeros are not numbers
    assert column(["True", "False"] * 9) == Categorical("x", ("False", "True"))


def test_a_few_odd_cells_in_a_column_of_numbers_are_refused_with_their_line():
    cells = [f"{v:.3f}" for v in random(13).normal(size=60)]
    cells[30] = "<0.1"
    with pytest.raises(
        InputError, match=r"t\.csv, line 32: column 'x' holds numbers, but 1 of its 60 values are not, such as '<0\.1'"
    ):
        column(cells)


def test_unmodelled_columns_are_written_again():
    columns = (RowNumber("id", 1), Constant("site", "A"), LeftOut("name"), column(["a", "b"] * 8, "kind"))
    table = Table.parse(columns, [["1", "A", "Ann", "a"], ["2", "A", "Bob", "b"]])
    assert table.rows(first=10) == [("11", "A", "", "a"), ("12", "A", "", "b")]
    with pytest.raises(InputError, match="'c' is not one of its 2 values"):
        Table.parse(columns, [["1", "A", "Ann", "c"]])

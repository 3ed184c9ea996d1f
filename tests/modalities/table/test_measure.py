"""Table measures against scipy, counts by hand and known cases; the plot is looked into, not only made."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Categorical, Column, Numeric, Table
from unnoise.modalities.table.detection import detection
from unnoise.modalities.table.likeness import column_shapes, mean_score, pair_trends
from unnoise.modalities.table.show import plot_marginals

X, Y = (Numeric(n, (0.0, 1.0), (0.0, 1.0), 1, 0, 1, missing="") for n in "xy")
C, D = Categorical("c", ("a", "b", "c")), Categorical("d", ("no", "yes"))
COLUMNS: tuple[Column, ...] = (X, C, Y, D)


def table(seed: int, n: int, correlation: float = 0.0, mean: float = 0.0) -> Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(mean, 1, n)
    y = correlation * (x - mean) + np.sqrt(1 - correlation**2) * rng.normal(size=n)
    codes = np.stack([rng.choice(3, n, p=[0.5, 0.3, 0.2]), (x > 0).astype(np.int64)], 1)
    return Table(COLUMNS, torch.from_numpy(np.stack([x, y], 1)), torch.from_numpy(codes))


def test_column_shapes_are_kolmogorov_smirnov_and_total_variation():
    real, fake = table(0, 300), table(1, 211, mean=0.5)
    fake.numeric[:20, 1] = torch.nan  # missing values do not count
    shapes = column_shapes(real, fake)
    r, f = real.numeric.numpy(), fake.numeric.numpy()
    assert shapes["x"] == pytest.approx(1 - stats.ks_2samp(r[:, 0], f[:, 0]).statistic)
    assert shapes["y"] == pytest.approx(1 - stats.ks_2samp(r[:, 1], f[20:, 1]).statistic)
    for j, c in enumerate((C, D)):
        p, q = ([float((t.categorical[:, j] == k).double().mean()) for k in range(c.size)] for t in (real, fake))
        assert shapes[c.name] == pytest.approx(1 - 0.5 * sum(abs(a - b) for a, b in zip(p, q)))


def test_pair_trends_are_correlations_and_contingencies():
    real, fake = table(2, 400, 0.9), table(3, 350, -0.2)
    trends = pair_trends(real, fake)
    assert set(trends) == {("x", "c"), ("x", "y"), ("x", "d"), ("c", "y"), ("c", "d"), ("y", "d")}
    r, f = (stats.pearsonr(t.numeric[:, 0], t.numeric[:, 1]).statistic for t in (real, fake))
    assert trends["x", "y"] == pytest.approx(1 - abs(r - f) / 2)
    p, q = (np.histogram2d(*t.categorical.numpy().T, bins=(3, 2), range=((0, 3), (0, 2)))[0] / len(t) for t in (real, fake))
    assert trends["c", "d"] == pytest.approx(1 - 0.5 * np.abs(p - q).sum())
    low, high = float(real.numeric[:, 0].min()), float(real.numeric[:, 0].max())
    edges = np.concatenate([[-np.inf], np.linspace(low, high, 11)[1:-1], [np.inf]])
    p, q = (
        np.histogram2d(t.numeric[:, 0].numpy(), t.categorical[:, 0].numpy(), bins=(np.nan_to_num(edges), np.arange(4)))[0] / len(t)
        for t in (real, fake)
    )
    assert trends["x", "c"] == pytest.approx(1 - 0.5 * np.abs(p - q).sum())


def test_a_table_is_perfectly_like_itself():
    real = table(4, 100, 0.5)
    assert mean_score(column_shapes(real, real)) == 1
    assert mean_score(pair_trends(real, real)) == pytest.approx(1)


def test_detection_is_the_area_that_theory_gives():
    """Two normals a apart in one of the numbers: the best classifier is linear, with area Phi(a / sqrt 2) (Bamber 1975)."""
    columns: tuple[Column, ...] = (X, Y)
    rng = np.random.default_rng(5)
    real = Table(columns, torch.from_numpy(rng.normal(size=(3000, 2))), torch.empty((3000, 0), dtype=torch.int64))
    moved = rng.normal(size=(3000, 2)) + np.array([1.0, 0.0])
    fake = Table(columns, torch.from_numpy(moved), torch.empty((3000, 0), dtype=torch.int64))
    # The area's standard deviation is at most sqrt(A (1 - A) / 3000) = 0.0078 (Birnbaum & Klose 1957); 5 of them: 6e-7
    assert detection(real, fake).value == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.039)


def test_tables_of_other_columns_are_refused():
    other = Table((X,), torch.zeros(3, 1).double(), torch.zeros((3, 0), dtype=torch.int64))
    with pytest.raises(InputError, match="same columns"):
        column_shapes(table(0, 10), other)


def test_the_plot_shows_data_in_grey_and_samples_in_red(tmp_path):
    path = tmp_path / "sheet.png"
    plot_marginals(table(0, 200, 0.8), table(1, 100), path)
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((153, 153, 153), (214, 39, 40)):  # matplotlib's "0.6" and "tab:red"
        assert (np.abs(pixels - colour).max(1) <= 2).sum() > 100

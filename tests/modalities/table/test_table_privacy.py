"""Distances to the closest record: by hand, in expectation, and with planted copies, which must be found."""

import math

import numpy as np
import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import Categorical, Column, Numeric, Table
from unnoise.modalities.table.privacy import closer_share, copies, distances, privacy

X, Y, Z = (Numeric(n, (0.0, 1.0), (0.0, 1.0), 3, 0, 1, missing="") for n in "xyz")
C = Categorical("c", ("a", "b"))
COLUMNS: tuple[Column, ...] = (X, Y, Z, C)


def rows(seed: int, n: int) -> Table:
    rng = np.random.default_rng(seed)
    return Table(COLUMNS, torch.from_numpy(rng.normal(size=(n, 3))), torch.from_numpy(rng.integers(0, 2, (n, 1))))


def joined(*tables: Table) -> Table:
    return Table(COLUMNS, torch.cat([t.numeric for t in tables]), torch.cat([t.categorical for t in tables]))


def test_the_share_by_hand() -> None:
    """Three made rows: one closest to training, one to the held-out row, one to two training rows and the held-out one equally."""
    to_train = torch.tensor([[1.0, 5], [4, 4], [2, 2]])
    to_held = torch.tensor([[3.0], [1], [2]])
    k = 1 + 0 + 2 / 3
    assert closer_share(to_train, to_held) == pytest.approx(k / (k + (3 - k) * 2))


def test_the_share_is_a_half_for_rows_that_know_nothing() -> None:
    """100 worlds of 60 training, 30 held-out and 80 made rows of one distribution: the mean is 1/2 within 5 standard errors."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(100):
        t, h, m = (torch.from_numpy(rng.normal(size=(n, 2))) for n in (60, 30, 80))
        shares.append(closer_share(distances(m, t), distances(m, h)))
    # the share is a ratio: of k, whose mean is exact, and its bias is of the order of its variance
    assert abs(np.mean(shares) - 0.5) < 5 * np.std(shares) / 10 + np.var(shares)


def test_planted_copies_are_found_and_counted() -> None:
    train, held, fresh = rows(0, 300), rows(1, 100), rows(2, 200)
    clean = privacy(train, held, fresh)
    assert clean.copies[0] == clean.copies_held == 0
    # 5 standard errors as the interval has them, about the 1/2 that is to be
    assert abs(clean.share[0] - 0.5) < 5 * (clean.share[2] - clean.share[1]) / (2 * 1.96)
    planted = privacy(train, held, joined(fresh, train[torch.arange(20)]))
    assert planted.copies[0] == pytest.approx(20 / 220)
    assert planted.closest[0] < 1e-6 < planted.closest_held  # 9 % of the rows are copies: their 5 % quantile is none
    assert planted.share[0] > clean.share[0]
    assert privacy(train, held, train).share[0] == 1
    assert privacy(train, held, held).share[0] == 0


def test_near_copies_are_closer_than_held_out_rows() -> None:
    train, held = rows(0, 300), rows(1, 100)
    near = Table(
        COLUMNS, train.numeric + 0.01 * torch.from_numpy(np.random.default_rng(3).normal(size=(300, 3))), train.categorical
    )
    found = privacy(train, held, near)
    assert found.copies[0] == 0
    assert found.share[1] > 0.8  # the whole interval
    assert found.closest[2] < 0.2 * found.closest_held


def test_copies_are_equal_in_every_value_missing_ones_and_zeros_of_both_signs_included() -> None:
    train = Table(COLUMNS, torch.tensor([[0.0, math.nan, 1], [2, 3, 4]], dtype=torch.float64), torch.tensor([[0], [1]]))
    made = Table(
        COLUMNS,
        torch.tensor([[-0.0, math.nan, 1], [0, 0, 1], [2, 3, 4], [2, 3, 4]], dtype=torch.float64),
        torch.tensor([[0], [0], [1], [0]]),
    )
    assert copies(made, train).tolist() == [True, False, True, False]


def test_the_quantile_lies_in_its_interval() -> None:
    found = privacy(rows(0, 200), rows(1, 50), rows(2, 400))
    assert found.closest[1] <= found.closest[0] <= found.closest[2]
    assert found.closest[1] < found.closest[2]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(InputError, match="these are 40, 19 and 40"):
        privacy(rows(0, 40), rows(1, 19), rows(2, 40))

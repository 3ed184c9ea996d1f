"""Altered rows against what they may differ in."""

import pytest
import torch
from scipy import stats

from unnoise.evaluation.views import hidden, moved


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        yield


def test_moved_pictures_are_the_same_elsewhere():
    """Every offset of -2 ... 2 in both directions must come up: 500 rows miss one of 25 with probability 25 (24/25)^500 < 4e-8."""
    x = torch.arange(60.0 * 40).view(1, 1, 60, 40).expand(500, 1, 60, 40)
    y = moved(x)
    first = y[:, 0, 30, 20].long()
    offsets = torch.stack([first // 40 - 30, first % 40 - 20], 1)
    assert len(offsets.unique(dim=0)) == 25
    for row, (dy, dx) in zip(y, offsets.tolist()):
        ys, xs = (torch.arange(60) + dy).clamp(0, 59), (torch.arange(40) + dx).clamp(0, 39)
        assert torch.equal(row[0], x[0, 0][ys][:, xs])


def test_moved_sequences_move_in_time_alone_and_vectors_do_not():
    x = torch.arange(30.0)[:, None] + torch.tensor([0.0, 1000.0])
    y = moved(x.expand(50, 30, 2))
    assert torch.equal(y[..., 1] - y[..., 0], torch.full((50, 30), 1000.0))
    assert set((y[:, 15, 0] - 15).tolist()) == {-1.0, 0.0, 1.0}  # missed with probability < 3 (2/3)^50 = 5e-9
    v = torch.randn(4, 6)
    assert torch.equal(moved(v), v)


@pytest.mark.parametrize("shape", [(3, 20, 30), (40, 5)])
def test_hidden_is_one_window_of_the_mean(shape):
    x = torch.randn(64, *shape)
    y = hidden(x)
    if len(shape) == 2:
        x, y = (v.transpose(1, 2)[..., None] for v in (x, y))
    changed = (x != y).all(1)
    assert torch.equal((x != y).any(1), changed), "all channels are hidden together"
    sides = x.shape[2:]
    for row, (before, after) in enumerate(zip(x, y)):
        ys, xs = (changed[row].any(axis).nonzero()[:, 0] for axis in (1, 0))
        assert [len(ys), len(xs)] == [-(-3 * s // 10) for s in sides]
        assert len(ys) == ys[-1] - ys[0] + 1
        assert len(xs) == xs[-1] - xs[0] + 1
        assert changed[row].sum() == len(ys) * len(xs)
        window = after[:, ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        torch.testing.assert_close(window, before.mean((1, 2))[:, None, None].expand_as(window))
    assert len({int(c.flatten().to(torch.uint8).argmax()) for c in changed}) > 5  # 5 places or fewer for 64 rows: below 1e-30


def test_hidden_numbers_are_other_rows_of_the_same_column():
    """3 in 10: of 50,000 numbers 15,000, 5.5 standard deviations either way: false alarm 4e-8."""
    x = torch.arange(1000.0)[:, None] * 100 + torch.arange(50.0)
    y = hidden(x)
    assert torch.equal(y % 100, x % 100)
    low, high = stats.binom.ppf([2e-8, 1 - 2e-8], 50_000, 0.3 * 999 / 1000)
    assert low <= int((x != y).sum()) <= high

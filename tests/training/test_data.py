"""Row order and streams are pure functions of (seed, batch number), whatever the number of processes."""

import numpy as np
import pytest

from unnoise.core.errors import InputError
from unnoise.training.data import Loader, Order


def test_every_epoch_is_a_permutation_and_they_differ():
    n, batch = 37, 8  # batches straddle epochs
    order = Order(n, batch, seed=3)
    drawn = np.concatenate([order.rows(k) for k in range(n)])  # n batches of 8 rows are 8 epochs
    epochs = drawn.reshape(8, n)
    assert all(sorted(e) == list(range(n)) for e in epochs.tolist())
    assert len({tuple(e) for e in epochs.tolist()}) == 8


def test_batches_larger_than_the_set_repeat_it():
    rows = Order(3, 8, seed=0).rows(0)
    assert sorted(rows[:3]) == sorted(rows[3:6]) == [0, 1, 2]


def test_batch_k_needs_no_batch_before_it():
    walked = Order(20, 6, seed=1)
    for k in range(12):
        walked.rows(k)
    assert walked.rows(12) == Order(20, 6, seed=1).rows(12)
    assert Order(20, 6, seed=2).rows(12) != walked.rows(12)


@pytest.mark.parametrize("world", [2, 3, 6])
def test_processes_share_the_batch_of_one(world):
    whole, shares = Order(20, 6, seed=1), [Order(20, 6, 1, r, world) for r in range(world)]
    for k in (0, 7):
        assert [r for s in shares for r in s.rows(k)] == whole.rows(k)
        assert [r for s in shares for r in s.streams(k).seeds] == list(whole.streams(k).seeds)


def test_no_two_rows_ever_share_a_stream():
    order = Order(5, 4, seed=1)
    seeds = [s for k in range(50) for s in order.streams(k).seeds]
    assert len(set(seeds)) == 200


def test_bad_sizes_are_refused():
    with pytest.raises(InputError, match="no rows"):
        Order(0, 4, 0)
    with pytest.raises(InputError, match="multiple of 3"):
        Order(10, 4, 0, 0, 3)


class _Broken:
    def __len__(self):
        return 10

    def batch(self, rows, rng):
        raise InputError("row 3 of file.csv is torn")


def test_an_error_of_the_background_thread_reaches_the_caller():
    with Loader(_Broken(), Order(10, 2, 0)) as loader, pytest.raises(InputError, match=r"file\.csv"):
        loader.get(0)

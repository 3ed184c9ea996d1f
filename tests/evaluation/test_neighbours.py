"""Nearest neighbours against all distances, in blocks of every size."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from unnoise.core.errors import InputError
from unnoise.evaluation import neighbours
from unnoise.evaluation.neighbours import EXACT, Nearest, Vectors, nearest


@pytest.mark.parametrize("block", [1 << 23, 64 * 7])
def test_neighbours_are_those_of_all_distances(block, monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(50, 1, (n, 7)).astype(np.float32) for n in (150, 203))
    found = nearest(Vectors.of(torch.from_numpy(x)), Vectors.of(torch.from_numpy(y)), 9)
    d = cdist(x.astype(float), y.astype(float))
    wanted = np.sort(d, 1)[:, :9]
    assert np.allclose(found.distances[:, :EXACT], wanted[:, :EXACT], rtol=1e-12)
    assert np.allclose(found.distances, wanted, rtol=1e-3)
    assert (found.rows[:, :EXACT].numpy() == d.argsort(1)[:, :EXACT]).all()


def test_equal_rows_are_at_exactly_no_distance():
    x = torch.from_numpy(np.random.default_rng(1).normal(100, 1, (40, 300)).astype(np.float32))
    found = nearest(Vectors.of(x[10:20]), Vectors.of(x), 2)
    assert (found.distances[:, 0] == 0).all()
    assert found.rows[:, 0].tolist() == list(range(10, 20))
    assert (found.distances[:, 1] > 1).all()


def test_two_halves_make_the_whole():
    x, y = (torch.from_numpy(np.random.default_rng(s).normal(0, 1, (n, 5))) for s, n in ((2, 30), (3, 41)))
    whole = nearest(Vectors.of(x), Vectors.of(y), 6)
    first, second = nearest(Vectors.of(x), Vectors.of(y[:4]), 6), nearest(Vectors.of(x), Vectors.of(y[4:]), 6)
    merged = first.merged(Nearest(second.distances, second.rows + 4))
    assert first.distances.shape == (30, 4)
    assert torch.equal(merged.rows[:, :EXACT], whole.rows[:, :EXACT])
    assert torch.allclose(merged.distances, whole.distances, rtol=1e-5)


def test_nothing_to_be_near():
    with pytest.raises(InputError, match="at least one of each"):
        nearest(Vectors.of(torch.ones(2, 3)), Vectors.of(torch.ones(0, 3)), 1)

import itertools
import sys

import pytest
import torch

from unnoise.core.coupling import Independent, OptimalTransport, assignment
from unnoise.core.errors import InputError
from unnoise.core.processes import Gaussian, Masked
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow

PROCESS = Gaussian(RectifiedFlow())


def test_assignment_is_the_best_of_all_permutations():
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        x, y = (torch.randn(6, 2, 3, generator=g) for _ in range(2))
        cost = {p: float(((x - y[list(p)]) ** 2).sum()) for p in itertools.permutations(range(6))}
        assert tuple(assignment(x, y).tolist()) == min(cost, key=cost.get)


def test_transport_deals_out_the_noise_that_there_is():
    """From x_t and x the noise can be solved for: it is the batch's own draws, permuted; at one time per sample."""
    n, rng = 32, Streams.of(1, 32)
    t = torch.linspace(0.2, 0.9, n, dtype=torch.float64)
    x = rng.normal("data", (3,))
    noise = (OptimalTransport().corrupt(PROCESS, x, t, rng) - (1 - t[:, None].float()) * x) / t[:, None].float()
    drawn = PROCESS.corrupt(x, t, rng).noise
    matched = (noise[:, None] - drawn).norm(dim=-1)
    assert matched.amin(1).max() < 1e-4
    assert sorted(matched.argmin(1).tolist()) == list(range(n))
    assert ((x - noise) ** 2).sum() < ((x - drawn) ** 2).sum()


def test_in_one_dimension_transport_sorts():
    x, noise = torch.randn(50, 1, generator=torch.Generator().manual_seed(1)), torch.linspace(-2, 2, 50)[:, None]
    assert torch.equal(noise[assignment(x, noise)].flatten().argsort(), x.flatten().argsort())


def test_independent_is_the_process_itself():
    t, x = torch.tensor([0.3, 0.6], dtype=torch.float64), torch.ones(2, 3)
    assert torch.equal(Independent().corrupt(PROCESS, x, t, Streams.of(0, 2)), PROCESS.corrupt(x, t, Streams.of(0, 2)).x_t)


def test_refusals(monkeypatch):
    x, t = torch.zeros(2, 3), torch.tensor([0.3, 0.6], dtype=torch.float64)
    with pytest.raises(InputError, match="Gaussian"):
        OptimalTransport().corrupt(Masked((2,)), x.long(), t, Streams.of(0, 2))
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(InputError, match=r"unnoise\[transport\]"):
        OptimalTransport().corrupt(PROCESS, x, t, Streams.of(0, 2))

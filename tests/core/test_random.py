"""Random streams. p-values are tested at 1e-7 and there are fewer than 50 of them: false alarm below 1e-5."""

import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from unnoise.core.errors import InputError
from unnoise.core.random import Streams, derive, radical_inverse

LEAST_P = 1e-7


def word(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def philox(seed, name, step):
    """The generator that the module's docstring promises."""
    counter = np.array([0, 0, 0, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, word(name)], dtype=np.uint64), counter=counter))


def test_draws_are_numpys_philox():
    rng = Streams.each([5, 2**63 - 1]).at([3, 0]).scoped("a").scoped("b")
    for i, (seed, step) in enumerate([(5, 3), (2**63 - 1, 0)]):
        want = philox(seed, "a/b/x", step).standard_normal((2, 3), dtype=np.float32)
        assert (rng.normal("x", (2, 3))[i].numpy() == want).all()
        assert (rng.uniform("x", (4,), dtype=torch.float64)[i].numpy() == philox(seed, "a/b/x", step).random(4)).all()
        assert (rng.integers("x", 10, (7,))[i].numpy() == philox(seed, "a/b/x", step).integers(10, size=7)).all()


def test_sample_seeds_are_hashes_of_run_and_number():
    assert Streams.of(7, 2, first=3).seeds == (word("7/3") >> 1, word("7/4") >> 1)
    assert derive(7, "data") == word("7/data") >> 1
    assert len({derive(s, i) for s in range(100) for i in range(100)}) == 10_000


@pytest.mark.parametrize("draw", ["normal", "uniform", "integers", "spread"])
def test_alone_in_a_batch_and_in_any_order(draw):
    def f(rng):
        return {
            "normal": lambda: rng.normal("x", (3,)),
            "uniform": lambda: rng.uniform("x", (3,)),
            "integers": lambda: rng.integers("x", 1000, (3,)),
            "spread": lambda: rng.spread("x"),
        }[draw]()

    together = f(Streams.of(1, 8).at(range(8)))
    for i in range(8):
        assert torch.equal(f(Streams.of(1, 1, first=i).at(i)), together[i : i + 1])
        assert torch.equal(f(Streams.of(1, 8).at(range(8))[i : i + 1]), together[i : i + 1])
    backwards = f(Streams.of(1, 8).at(range(8))[::-1])
    assert torch.equal(backwards, together.flip(0))


def test_drawing_twice_or_more_changes_nothing():
    rng = Streams.of(1, 2)
    assert torch.equal(rng.normal("x", (5,)), rng.normal("x", (5,)))
    assert torch.equal(rng.normal("x", (9,))[:, :5], rng.normal("x", (5,)))


def test_normal_and_uniform_have_their_laws():
    rng = Streams.of(11, 200)
    assert stats.kstest(rng.normal("x", (500,)).double().flatten().numpy(), "norm").pvalue > LEAST_P
    assert stats.kstest(rng.uniform("x", (500,), dtype=torch.float64).flatten().numpy(), "uniform").pvalue > LEAST_P
    counts = np.bincount(rng.integers("x", 7, (500,)).flatten().numpy(), minlength=7)
    assert stats.chisquare(counts).pvalue > LEAST_P
    across = Streams.of(12, 20_000)  # one draw a sample: seeds as numbers
    assert stats.kstest(across.normal("x").double().numpy(), "norm").pvalue > LEAST_P


def test_names_steps_scopes_and_samples_are_independent():
    n = 20_000
    rng = Streams.of(3, 1)
    draws = [
        rng.normal("x", (n,)), rng.normal("y", (n,)), rng.at(1).normal("x", (n,)), rng.at(2**40).normal("x", (n,)),
        rng.scoped("s").normal("x", (n,)), Streams.of(3, 1, first=1).normal("x", (n,)), Streams.of(4, 1).normal("x", (n,)),
        rng.normal("x", (n + 1,))[:, 1:],
    ]  # fmt: skip
    for i in range(len(draws)):
        for j in range(i):
            assert stats.pearsonr(draws[i][0].numpy(), draws[j][0].numpy()).pvalue > LEAST_P


def test_spread_draws_cover_the_interval_evenly():
    for n, first in [(1, 0), (8, 0), (64, 64), (64, 4096)]:
        u = Streams.of(5, n, first=first).spread("t").sort().values
        gaps = torch.cat([u[1:], u[:1] + 1]) - u
        torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / n), rtol=1e-9, atol=0)
    u = torch.cat([Streams.of(5, 1).at(k).spread("t") for k in range(55)]).sort().values  # steps: golden rotation
    assert torch.cat([u[1:], u[:1] + 1]).sub(u).min() > 0.5 / 55
    assert torch.cat([u[1:], u[:1] + 1]).sub(u).max() < 2 / 55
    # any other number: the star discrepancy of n van der Corput points is below (log2(n) + 1) / n; a rotation at most doubles it
    u = Streams.of(5, 100).spread("t").sort().values
    far = (u - torch.arange(100, dtype=torch.float64) / 100).abs().max()
    assert far < 2 * (np.log2(100) + 1) / 100


def test_each_spread_draw_alone_is_uniform():
    for place in (0, 5):
        u = torch.cat([Streams.of(seed, 1, first=place).spread("t") for seed in range(3000)])
        assert stats.kstest(u.numpy(), "uniform").pvalue > LEAST_P


def test_radical_inverse():
    assert [radical_inverse(i) for i in range(8)] == [0, 1 / 2, 1 / 4, 3 / 4, 1 / 8, 5 / 8, 3 / 8, 7 / 8]


def test_what_cannot_be_right_is_refused():
    with pytest.raises(InputError, match="seed -1: a seed is an integer from 0"):
        Streams.of(-1, 2)
    with pytest.raises(InputError, match="outside"):
        Streams.each([2**63])
    with pytest.raises(InputError, match="2 steps for 3 samples"):
        Streams.of(0, 3).at([1, 2])

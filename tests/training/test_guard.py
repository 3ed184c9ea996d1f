"""When a run counts as diverged: planted losses, one rule at a time."""

import math

import pytest

from unnoise.training.config import GuardConfig
from unnoise.training.guard import Guard

CONFIG = GuardConfig(factor=5.0, patience=3, window=20)


def first_complaint(losses, norms=None):
    guard = Guard(CONFIG)
    for i, loss in enumerate(losses):
        if guard.complaint(loss, 1.0 if norms is None else norms[i]) is not None:
            return i
    return None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_always_counts(bad):
    assert first_complaint([1.0, bad]) == 1
    assert first_complaint([1.0, 1.0], [1.0, bad]) == 1


def test_an_explosion_counts_after_patience_and_a_spike_does_not():
    assert first_complaint([1.0] * 20 + [7.0, 7.0, 1.0] * 10) is None
    assert first_complaint([1.0] * 20 + [7.0] * 3) == 22
    assert first_complaint([1.0] * 20 + [5.9] * 30) is None  # 1 + 5 |1| is the border
    assert first_complaint([-2.0] * 20 + [9.0] * 3) == 22  # -2 + 5 |-2| = 8, for losses that may be negative
    assert first_complaint([-2.0] * 20 + [7.0] * 30) is None


def test_losses_around_zero_are_judged_by_their_spread():
    usual = [0.1 * math.sin(i) for i in range(40)]  # median distance from the median: 0.1 / sqrt(2), and 5 times that is 0.35
    assert first_complaint([*usual, *[0.3] * 10]) is None
    assert first_complaint([*usual, *[0.6] * 3]) == 42


def test_the_start_of_a_run_is_let_be():
    assert first_complaint([1.0, 50.0, 60.0, 70.0]) is None


def test_memory_goes_through_a_checkpoint():
    losses = [1.0] * 20 + [7.0] * 3
    for cut in (4, 20, 21, 22):
        guard = Guard(CONFIG)
        assert all(guard.complaint(x, 1.0) is None for x in losses[:cut])
        guard = Guard(CONFIG, tuple(guard.losses), guard.streak)
        assert [guard.complaint(x, 1.0) is None for x in losses[cut:]] == [True] * (22 - cut) + [False]

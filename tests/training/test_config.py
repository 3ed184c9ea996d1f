"""Learning rates over the run, against the formulas evaluated by hand, and settings that are refused."""

import pytest

from unnoise.core.errors import InputError
from unnoise.training.config import AdamWConfig, CosineDecay, GuardConfig, InverseSqrtDecay, LinearDecay, TrainConfig


def test_warm_up_and_decays():
    config = TrainConfig(steps=100, warmup=10)
    assert [config.lr_factor(s) for s in (0, 4, 9, 10, 99)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert CosineDecay(floor=0.2).factor(0, 100) == 1
    assert CosineDecay(floor=0.2).factor(50, 100) == pytest.approx(0.6)
    assert LinearDecay(start=0.5).factor(40, 100) == 1
    assert LinearDecay(start=0.5).factor(75, 100) == pytest.approx(0.5)
    assert LinearDecay().factor(99, 100) == pytest.approx(0.01)
    assert InverseSqrtDecay(after=25).factor(100, 10**6) == pytest.approx(0.5)
    assert InverseSqrtDecay(after=25).factor(3, 10**6) == 1


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"steps": 0}, "steps 0"),
        ({"batch": 0}, "batch 0"),
        ({"micro_batch": 0}, "micro_batch 0"),
        ({"clip": 0.0}, r"clip 0\.0"),
        ({"ema_widths": ()}, "at least one width"),
        ({"ema_widths": (0.1, 0.1)}, "each once"),
        ({"ema_widths": (0.4,)}, r"0\.4"),
        ({"seed": -1}, "seed -1"),
        ({"optimiser": AdamWConfig(lr=float("nan"))}, "learning rate nan"),
        ({"optimiser": AdamWConfig(lr=0)}, "learning rate 0"),
    ],
)
def test_bad_settings_are_refused(bad, says):
    with pytest.raises(InputError, match=says):
        TrainConfig(**bad)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GuardConfig(window=0), "a window of 4 at least"),
        (lambda: GuardConfig(patience=0), "patience of 1 step"),
        (lambda: GuardConfig(factor=0.0), "factor above 0"),
        (lambda: GuardConfig(shrink=0.0), "shrink multiplies the learning rate"),
        (lambda: InverseSqrtDecay(after=0), "after 0 steps: at least 1"),
        (lambda: LinearDecay(start=1.5), "from 1.5 of the run"),
        (lambda: CosineDecay(floor=-0.1), "down to -0.1"),
    ],
)
def test_what_stops_or_starves_a_run_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()

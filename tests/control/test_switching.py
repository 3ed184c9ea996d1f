import pytest
import torch

from unnoise.control.switching import switched
from unnoise.core.errors import InputError
from unnoise.core.predictions import Mean
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow
from unnoise.samplers.euler import Euler
from unnoise.samplers.loop import sample


def constant(value: float, calls: list[float]):
    def denoise(x_t, t):
        calls.append(value)
        return Mean(torch.full_like(x_t, value))

    return denoise


def test_every_sample_gets_what_holds_at_its_time() -> None:
    calls: list[float] = []
    denoise = switched([(1.0, constant(1, calls)), (0.6, constant(2, calls)), (0.3, constant(3, calls))])
    t = torch.tensor([1.0, 0.61, 0.6, 0.31, 0.3, 0.0])
    assert denoise(torch.zeros(6, 2), t).x0[:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert calls == [1, 2, 3]
    calls.clear()
    denoise(torch.zeros(2, 2), torch.tensor([0.5, 0.4]))
    assert calls == [2]


def test_a_walk_ends_where_the_line_through_both_targets_ends() -> None:
    """Euler on the rectified flow: a step from t to s towards x0 is x <- x0 + (s / t) (x - x0), by hand for both halves."""
    times = torch.linspace(1, 0, 6, dtype=torch.float64)
    x, calls = torch.tensor([[5.0]]), []
    expected = 5.0
    for k in range(5):
        target = 1.0 if k < 2 else -2.0
        expected = target + float(times[k + 1] / times[k]) * (expected - target)
    denoise = switched([(1.0, constant(1, calls)), (float(times[2]), constant(-2, calls))])
    out = sample(denoise, Gaussian(RectifiedFlow()), x, times, Euler(), Streams.of(0, 1))
    assert calls == [1, 1, -2, -2, -2]
    assert float(out) == pytest.approx(expected)


@pytest.mark.parametrize("starts", [[], [0.5, 0.5], [0.3, 0.6]])
def test_times_that_do_not_fall(starts: list[float]) -> None:
    with pytest.raises(InputError, match="falling times"):
        switched([(s, constant(0, [])) for s in starts])

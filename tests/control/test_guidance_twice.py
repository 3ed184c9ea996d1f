"""Guidance of two conditions against its formula, of the answers that the denoiser itself gives one by one."""

import pytest
import torch
from torch import Tensor

from unnoise.control.guidance import bind, classifier_free, classifier_free_twice
from unnoise.control.rules import ZeroStar
from unnoise.core.errors import InputError
from unnoise.core.predictions import Mean
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow

CALLS: list[int] = []
PROCESS = Gaussian(RectifiedFlow())


def denoiser(x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Mean:
    """Any function of all that it is told, row by row."""
    CALLS.append(len(x))
    return Mean(torch.tanh(x * (1 + cond["words"][:, None]) + t[:, None].to(x) * cond["picture"]))


def told(*values: float, picture: Tensor) -> dict[str, Tensor]:
    return {"words": torch.tensor(values), "picture": picture}


PICTURE = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
COND, AWAY, NOTHING = told(0.5, 2.0, picture=PICTURE), told(0.0, 0.0, picture=PICTURE), told(0.0, 0.0, picture=torch.zeros(2, 3))
X = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("scale", [4.0, 1.0, 0.0, torch.tensor([2.0, 7.5])], ids=str)
def test_the_formula(scale: float | Tensor) -> None:
    t = torch.tensor([0.7, 0.3], dtype=torch.float64)
    both, picture, neither = (bind(denoiser, c)(X, t).x0 for c in (COND, AWAY, NOTHING))
    CALLS.clear()
    w = torch.as_tensor(scale)[..., None] if isinstance(scale, Tensor) else scale
    expected = neither + 1.5 * (picture - neither) + w * (both - picture)
    torch.testing.assert_close(classifier_free_twice(denoiser, COND, AWAY, NOTHING, scale, 1.5)(X, t).x0, expected)
    assert CALLS == [6]


def test_outside_the_interval_words_are_followed_plainly_and_a_picture_scale_of_1_is_classifier_free() -> None:
    t = torch.tensor([0.7, 0.3], dtype=torch.float64)
    both, picture, neither = (bind(denoiser, c)(X, t).x0 for c in (COND, AWAY, NOTHING))
    got = classifier_free_twice(denoiser, COND, AWAY, NOTHING, 4.0, 1.5, interval=(0.5, 1.0))(X, t).x0
    torch.testing.assert_close(got[0], (neither + 1.5 * (picture - neither) + 4 * (both - picture))[0])
    torch.testing.assert_close(got[1], (neither + 1.5 * (picture - neither) + (both - picture))[1])
    plain = classifier_free(denoiser, COND, AWAY, 4.0, rescale=0.5)(X, t).x0
    assert torch.equal(classifier_free_twice(denoiser, COND, AWAY, NOTHING, 4.0, 1.0, rescale=0.5)(X, t).x0, plain)
    spread = classifier_free_twice(denoiser, COND, AWAY, NOTHING, 4.0, 1.5, rescale=1.0)(X, t).x0.std(1)
    torch.testing.assert_close(spread, both.std(1))  # also of what the picture adds
    at_rest = classifier_free_twice(denoiser, COND, AWAY, NOTHING, 4.0, 1.5, combine=ZeroStar(0.5).start(PROCESS))(X, t).x0
    torch.testing.assert_close(at_rest[0], X[0])  # in a flow D = x_t is where nothing moves
    assert (at_rest[1] - X[1]).abs().max() > 0.01
    with pytest.raises(InputError, match="must be a finite number"):
        classifier_free_twice(denoiser, COND, AWAY, NOTHING, 4.0, float("nan"))

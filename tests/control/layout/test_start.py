"""A layout in the noise, on data whose flow is known in closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor

from unnoise.control.guidance import bind
from unnoise.control.layout.start import price, shift_of, shifted
from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactGaussian
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.scenes.vocabulary import BACKDROPS, COLOURS
from unnoise.samplers.loop import sample
from unnoise.samplers.registry import find_sampler

PROCESS, MEAN, STD = Gaussian(RectifiedFlow()), torch.tensor([0.3, -0.2]), 0.5
SHIFT = torch.tensor([[1.5, -0.7]])


def drawn(name: str, steps: int, shift: Tensor | None) -> Tensor:
    rng, chosen = Streams.of(5, 64), find_sampler(name)
    x = PROCESS.prior((2,), rng)
    x = x if shift is None else shifted(x, shift.expand(64, 2), 1.0)
    denoise = bind(ExactGaussian(PROCESS, MEAN, STD**2), {})
    return sample(denoise, PROCESS, x, chosen.grid.times(steps, PROCESS), chosen.sampler, rng.scoped("sampler"))


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc"])
def test_the_flow_moves_the_data_by_as_many_deviations(name: str) -> None:
    """x_0 = mu + s x_1: not in the mean alone, but sample by sample."""
    plain, moved = drawn(name, 64, None), drawn(name, 64, SHIFT)
    assert torch.allclose(moved - plain, (STD * SHIFT).expand(64, 2), atol=5e-3)
    start = PROCESS.prior((2,), Streams.of(5, 64))
    assert torch.allclose(plain, MEAN + STD * start, atol=5e-3)


def test_an_ancestral_sampler_forgets_the_shift() -> None:
    """The same bridge noise on both sides, so that what is left of the shift is seen without chance."""
    plain, moved = drawn("ddpm", 256, None), drawn("ddpm", 256, SHIFT)
    assert float((moved - plain).abs().max()) < 0.03 * float((STD * SHIFT).abs().max())


def test_the_price_is_the_divergence_of_what_comes_out() -> None:
    """Between N(mu + s m, s^2) and N(mu, s^2): a bijection changes no divergence. torch's own formula."""
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(MEAN + STD * SHIFT[0], STD), normal(MEAN, STD)).sum()
    assert float(price(SHIFT)[0]) == pytest.approx(float(expected), rel=1e-6)


def test_things_pull_towards_their_colour() -> None:
    """States of pixels lie in -1 ... 1."""
    codec = PixelsConfig(8, 8, 3).build()
    bare = np.full((2, 8, 8, 3), BACKDROPS["mint"], np.uint8)
    laid = bare.copy()
    laid[0, 2:6, 2:6] = COLOURS["blue"]
    m = shift_of(codec, laid, bare, 0.4)
    assert torch.equal(m[1], torch.zeros(3, 8, 8))
    for c in range(3):
        towards = 0.4 * (COLOURS["blue"][c] - BACKDROPS["mint"][c]) / 127.5
        assert torch.allclose(m[0, c, 2:6, 2:6], torch.full((4, 4), towards), atol=1e-5)
        assert not m[0, c, 6:].any()


def test_a_shift_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(1, 3, 4, 4\)"):
        shifted(torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 4, 4), 1.0)

"""Pictures to be measured: in and out as they were, colours and spectra against closed forms."""

import numpy as np
import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.core.measure import Measure
from unnoise.modalities.image.measure import Pictures, class_of

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)


def named(measures: list[Measure], name: str) -> Measure:
    return {m.name: m for m in measures}[name]


def test_rows_come_out_as_they_went_in():
    pictures = Pictures.of(NOISE, (class_of(["a", "b", None, "c"] * 16, ("a", "b")),))
    some = pictures.take([3, 1, 1])
    assert np.array_equal(some.array(), NOISE[[3, 1, 1]])
    assert some.attributes()[0].codes.tolist() == [-1, 1, 1]
    assert np.array_equal(some.take([1]).array(), NOISE[[1]])
    back = ((some.tensor(pictures) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    assert torch.equal(back, torch.from_numpy(NOISE[[3, 1, 1]]))
    assert np.array_equal(np.asarray(some.draw([0])[0]), NOISE[3])


def test_what_is_of_another_size_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"pictures of 16x16x3 .* cannot be compared with 8x8x3 pixels"):
        Pictures.of(NOISE).tensor(Pictures.of(NOISE[:, :8, :8]))
    with pytest.raises(InputError, match="uint8"):
        Pictures.of(NOISE.astype(np.float32))


def test_colour_is_the_shift_of_the_values():
    """Wasserstein-1 between a distribution and itself moved by d is d."""
    grey = RNG.integers(40, 200, (64, 16, 16, 3), dtype=np.uint8)
    moved = grey.copy()
    moved[..., 0] += 12
    found = named(Pictures.of(grey).measures(Pictures.of(grey), Pictures.of(moved)), "colour")
    assert found.value == pytest.approx(12 / 3)
    assert found.floor == 0


def test_spectrum_is_the_log_ratio_of_the_power():
    """Half the contrast is a quarter of the power at every frequency: log10 4 everywhere."""
    even = (NOISE // 2) * 2
    half = (even // 2) + 64
    found = named(Pictures.of(even).measures(Pictures.of(even), Pictures.of(half)), "spectrum")
    assert found.value == pytest.approx(np.log10(4), abs=1e-3)
    assert found.floor == 0


def test_made_pictures_stand_on_the_left():
    black, white = (Pictures.of(np.full((20, 8, 8, 1), v, dtype=np.uint8)) for v in (0, 255))
    page, told = black.look(white)
    x = np.asarray(page.convert("L")).astype(int)
    half = x.shape[1] // 2
    assert (x[:, :half] == 255).sum() > 10_000 > 0 == (x[:, :half] == 0).sum()
    assert (x[:, half:] == 0).sum() > 10_000 > 0 == (x[:, half:] == 255).sum()
    assert told == "made on the left, real on the right"

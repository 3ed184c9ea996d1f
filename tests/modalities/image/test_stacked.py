"""Stacked digits: every channel is one of scikit-learn's digits, and shows what the mode says."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.core.errors import InputError
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.measure import Pictures
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.stacked import (
    are_stacked,
    channel,
    divergence_from_uniform,
    expected_modes,
    single_digits,
    stacked_digits,
    write_stacked_digits,
)

pytest.importorskip("sklearn")


def test_every_channel_is_a_digit_of_its_mode() -> None:
    pixels, shown = single_digits()
    of: dict[bytes, set[int]] = {}
    for digit, picture in zip(shown, pixels):
        of.setdefault(picture.tobytes(), set()).add(int(digit))
    made = stacked_digits(200, seed=4)
    for picture, mode in zip(made.pixels, made.modes):
        digits = (mode // 100, mode // 10 % 10, mode % 10)
        assert all(d in of[np.ascontiguousarray(picture[..., c]).tobytes()] for c, d in enumerate(digits))


def test_a_row_is_the_same_however_many_are_asked_for() -> None:
    whole, part = stacked_digits(30, seed=2), stacked_digits(7, seed=2, first=11, scale=3)
    assert np.array_equal(whole.modes[11:18], part.modes)
    assert np.array_equal(whole.pixels[11:18], part.pixels[:, ::3, ::3])
    assert not np.array_equal(whole.modes, stacked_digits(30, seed=3).modes)


def test_digits_are_equally_likely() -> None:
    """Chi-squared of 30,000 digits in 10 bins: above 45.1 with probability 9e-7 (9 degrees of freedom)."""
    modes = stacked_digits(10_000).modes
    digits = np.concatenate([modes // 100, modes // 10 % 10, modes % 10])
    counts = np.bincount(digits, minlength=10)
    assert float(((counts - 3000.0) ** 2 / 3000).sum()) < 45.1


def test_the_file_is_read_as_pictures_of_a_thousand_classes(tmp_path: Path) -> None:
    file = write_stacked_digits(tmp_path / "stacked.npz", 300)
    data = read_pictures(file, PictureOptions(), progress=False)
    made = stacked_digits(300)
    assert np.array_equal(data.pictures(range(300)), made.pixels)
    assert [c[0] for c in data.captions] == [f"{m:03d}" for m in made.modes]
    pictures = Pictures.read(data)
    assert are_stacked(pictures)
    green = channel(pictures, 1)
    assert np.array_equal(green.array()[..., 0], made.pixels[..., 1])
    assert green.known[0].codes.tolist() == (made.modes // 10 % 10).tolist()
    with pytest.raises(InputError, match="exists"):
        write_stacked_digits(file, 3)
    assert {p.name for p in tmp_path.iterdir()} == {"stacked.npz"}


def test_other_pictures_are_not_stacked() -> None:
    assert not are_stacked(Pictures.of(stacked_digits(5).pixels))


def test_divergence_from_the_uniform_histogram() -> None:
    assert divergence_from_uniform(torch.full((1000,), 3)) == pytest.approx(0, abs=1e-12)
    assert divergence_from_uniform(torch.eye(1000, dtype=torch.int64)[5]) == pytest.approx(math.log(1000))
    assert divergence_from_uniform(torch.tensor([1, 1, 0, 0])) == pytest.approx(math.log(2))


def test_how_many_modes_are_to_be_expected() -> None:
    assert expected_modes(1) == pytest.approx(1)
    assert expected_modes(2, modes=2) == pytest.approx(1.5)  # of four equally likely pairs, two show both
    assert expected_modes(10**6) == pytest.approx(1000)


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        stacked_digits(0)

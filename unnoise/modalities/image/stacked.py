"""Stacked digits: three random digits in the red, green and blue of one picture, 1,000 modes that are known and equally likely.

The test of diversity of Metz et al. 2016 (1611.02163, section 3.3.1) and Srivastava et al. 2017 (1705.07761), made of
scikit-learn's 1797 digits of 8 x 8 pixels instead of MNIST. A picture shows mode 100 r + 10 g + b; a generator's modes are counted
by what a classifier reads in each channel, and beside their number stands

    KL(p | uniform) = sum_k p_k log(1000 p_k),    p the histogram of what was read.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.core.measure import Attribute
from unnoise.core.random import Streams
from unnoise.modalities.image.measure import Pictures

MODES = 1000
DIGIT = Attribute("digit", tuple("0123456789"), torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True)
class StackedDigits:
    """pixels: uint8 (N, side, side, 3); modes: (N,) int64 in 0 ... 999."""

    pixels: np.ndarray
    modes: np.ndarray


def single_digits() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (1797, 8, 8) and what they show, (1797,) int64. InputError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError('the digits come with scikit-learn, which is not installed: pip install "unnoise[table]"') from None
    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), np.asarray(digits.target, dtype=np.int64)


def stacked_digits(n: int, seed: int = 0, first: int = 0, scale: int = 1) -> StackedDigits:
    """Rows first ... first + n - 1 of the endless set `seed`; row i is the same however many are asked for.

    scale: every pixel becomes a square of so many.
    """
    if n < 1 or first < 0 or scale < 1:
        raise InputError(f"stacked digits: n {n} and scale {scale} must be at least 1, first {first} not negative")
    pixels, shown = single_digits()
    places = [np.flatnonzero(shown == d) for d in range(10)]
    rng = Streams.of(seed, n, first)
    digits = rng.integers("digits", 10, (3,)).numpy()  # the digit first, then one of its pictures: modes are equally likely
    which = rng.uniform("which", (3,)).numpy()
    rows = np.array([[places[d][int(u * len(places[d]))] for d, u in zip(ds, us)] for ds, us in zip(digits, which)])
    stacked = pixels[rows].transpose(0, 2, 3, 1)
    enlarged = np.ascontiguousarray(stacked.repeat(scale, 1).repeat(scale, 2))
    return StackedDigits(enlarged, digits @ np.array([100, 10, 1]))


def write_stacked_digits(file: str | Path, n: int = 20_000, seed: int = 0, scale: int = 1) -> Path:
    """An npz of n pictures ("x") with their modes as class names 000 ... 999 ("y"); returns it. InputError if the file exists."""
    file = Path(file)
    if file.exists():
        raise InputError(f"{file} exists; give the name of a new file for the stacked digits")
    made = stacked_digits(n, seed, scale=scale)
    with atomically(file) as partial, partial.open("wb") as out:
        np.savez_compressed(out, x=made.pixels, y=np.array([f"{m:03d}" for m in made.modes]))
    return file


def are_stacked(pictures: Pictures) -> bool:
    """Whether these are coloured pictures of three-digit classes: one digit a channel."""
    names = pictures.known[0].values if pictures.known else ()
    return pictures.shape[2] == 3 and bool(names) and all(len(v) == 3 and v.isdecimal() for v in names)


def channel(pictures: Pictures, c: int) -> Pictures:
    """One channel as grey pictures, with the digit that it is to show where that is known."""
    array = np.ascontiguousarray(pictures.array()[..., c : c + 1])
    known: tuple[Attribute, ...] = ()
    if are_stacked(pictures):
        asked = pictures.known[0]
        digit = torch.tensor([int(v[c]) for v in asked.values], dtype=torch.int64)
        codes = torch.where(asked.codes < 0, -1, digit[asked.codes.clamp(min=0)])
        known = (Attribute(DIGIT.name, DIGIT.values, codes),)
    return Pictures.of(array, known)


def divergence_from_uniform(counts: Tensor) -> float:
    """KL in nats of a histogram (K,) from the uniform one: 0 ... log K."""
    p = counts.double() / counts.sum()
    return float(torch.special.xlogy(p, p).sum()) + math.log(len(counts))


def expected_modes(n: int, modes: int = MODES) -> float:
    """How many of so many equally likely modes n perfect samples would show: modes (1 - (1 - 1 / modes)^n)."""
    return modes * -math.expm1(n * math.log1p(-1 / modes))

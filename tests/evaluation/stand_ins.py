"""Rows for tests of the evaluation, of known distribution, and stand-ins for what looks at them and makes them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from unnoise.core.measure import Attribute
from unnoise.modalities.image.measure import Pictures, class_of


def normal(seed: int | np.random.Generator, n: int, d: int = 1, mean: float = 0.0, std: float = 1.0) -> torch.Tensor:
    """(n, d) float64; of a generator the numbers that come next."""
    return torch.from_numpy(np.random.default_rng(seed).normal(mean, std, (n, d)))


def folded(mean: float, std: float) -> float:
    """E|Z| for Z ~ N(mean, std^2)."""
    return std * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * std**2)) + mean * (1 - 2 * stats.norm.cdf(-mean / std))


def attribute(codes, values=("a", "b", "c"), name="class"):
    return Attribute(name, values, torch.as_tensor(codes, dtype=torch.int64))


def noise_pictures(seed, n, side=6, codes=None, values=("a", "b", "c"), step=40, spread=20):
    """Grey pictures of independent pixels, normal around 128 - step, 128, 128 + step for classes 0, 1, 2 (0 without)."""
    rng = np.random.default_rng(seed)
    centre = 128 + step * ((0 if codes is None else np.asarray(codes)) - 1) * np.ones(n)
    x = np.clip(np.round(rng.normal(centre[:, None, None, None], spread, (n, side, side, 1))), 0, 255).astype(np.uint8)
    return Pictures.of(x, () if codes is None else (attribute(codes, values),))


class Itself:
    """An encoder that hands on the rows as they are."""

    name, hash = "the rows themselves", "0" * 16

    def features(self, x, reference, progress=False):
        return x.tensor(reference).flatten(1)


@dataclass(frozen=True)
class Brightness:
    """The right classifier of `noise_pictures`, wrong on purpose for a share of them: the call is moved to the next class."""

    confused: float = 0.0
    name: str = "brightness"
    hash: str = "0" * 16
    attribute: Attribute = attribute(())

    def probabilities(self, x, reference, progress=False):
        level = x.tensor(reference).flatten(1)
        called = ((level.mean(1) * 127.5 + 127.5 - 128) / 40).round().clamp(-1, 1).long() + 1
        wrong = ((level.double() * torch.arange(1, level.shape[1] + 1)).sum(1) * 977).frac().abs() < self.confused
        return torch.nn.functional.one_hot(torch.where(wrong, (called + 1) % 3, called), 3).float()

    def encoder(self):
        return Itself()


@dataclass(frozen=True)
class Obeying:
    """Makes the class that was asked for with probability min(1, 0.4 + 0.2 guidance), else the next one."""

    name: str = "obeying"

    def make(self, prompts, seed, guidance=None):
        place = {"a": 0, "b": 1, "c": 2}
        asked = np.array([place[p] for p in prompts])
        obeys = np.random.default_rng(seed).random(len(asked)) < 0.4 + 0.2 * (1.0 if guidance is None else guidance)
        shown = np.where(obeys, asked, (asked + 1) % 3)
        return Pictures.of(noise_pictures(seed + 1, len(asked), codes=shown).array(), (class_of(prompts, ("a", "b", "c")),))

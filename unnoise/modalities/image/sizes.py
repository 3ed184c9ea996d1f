"""Sizes told beside the words: how large a picture was, where it was cropped, and how large it is to be (SDXL, Podell et al. 2023,
2307.01952, sections 2.2 and 2.3).

    size   = (original height, original width, top, left, height, width), in pixels; the corner after resizing, before cropping
    vector = [the words' vector, W2 silu(W1 phi(size))],  phi: harmonics of each of the six numbers     (`embedding.size_features`)

A set's small pictures are enlarged to be trained on, and blurred by it; others lose what they show at the edges. Told of both, the
network draws sharp and whole pictures when it is asked for the size at hand, with nothing cropped. An original counts at most as
large as it is shown: how much a picture was made smaller is not to be seen in it, and so what sampling asks for by default,
an original of the very size, is what every picture of a set of large ones was told to be.
"""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unnoise.core.codec import Buildable, Conditioner, ToldSizes
from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.image.decode import Target
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.syntax import Said
from unnoise.networks.embedding import TwoLayers, size_features

Told = tuple[int, int, int, int, int, int]
"""Original height and width, top and left, height and width."""
_HARMONICS = 64  # for each number


def told_size(height: int, width: int, target: Target) -> Told:
    """Of a picture of height x width pixels that `decode.fit` makes one of the target's size."""
    scale = (min if target.pad else max)(target.height / height, target.width / width)
    shown = (round(height * scale), round(width * scale))
    top, left = (max(0, (s - t) // 2) for s, t in zip(shown, (target.height, target.width)))
    return min(height, shown[0]), min(width, shown[1]), top, left, target.height, target.width


def tell_apart(sizes: Sequence[Told], share: float = 0.05) -> bool:
    """Whether sizes are worth telling: they differ, and at least a share of the pictures is as large as what sampling asks for."""
    whole = sum(s[0] >= s[4] and s[1] >= s[5] for s in sizes)
    return len(set(sizes)) > 1 and whole >= share * len(sizes)


@dataclass(frozen=True)
class SizedNamesConfig:
    """inner: of class names, or of nothing; dim: of what is told of the size; height, width: asked for unless another is."""

    inner: Buildable
    dim: int
    height: int
    width: int

    def build(self) -> "SizedNames":
        return SizedNames(self)


@dataclass(frozen=True)
class SizedWordsConfig(EmphaticConfig):
    """inner: of words; dim: of what is told of the size; height, width: asked for unless another is."""

    inner: EmphaticConfig
    dim: int
    height: int
    width: int

    def build(self) -> "SizedWords":
        return SizedWords(self)


class Sized(ToldSizes, ABC):
    """cond: as the inner conditioner's, its vector followed by `dim` numbers (these alone, where it has none)."""

    def __init__(self, inner: Conditioner, config: SizedNamesConfig | SizedWordsConfig) -> None:
        super().__init__()
        self.config, self.inner = config, inner
        self.size = TwoLayers(6 * _HARMONICS, config.dim)

    def forward(self, prepared: Cond) -> Cond:
        cond = dict(self.inner({k: v for k, v in prepared.items() if k != "size"}))
        size = self.size(size_features(prepared["size"], _HARMONICS))
        return {**cond, "vector": torch.cat([cond["vector"], size.to(cond["vector"])], 1) if "vector" in cond else size}

    def kept(self, given: Cond) -> Cond:
        """All: guidance leads to the prompt, not away from a size."""
        return given

    def told(self, sizes: Sequence[Told]) -> Cond:
        """-> size (B, 6) int64, prepared."""
        return {"size": torch.tensor(sizes, dtype=torch.int64).reshape(-1, 6)}

    def asked(self, n: int, height: int | None = None, width: int | None = None, original: tuple[int, int] | None = None) -> Cond:
        """For n samples: whole pictures of height x width pixels, the usual ones by default; as if they had been of the `original`
        height and width, by default just as large. Raises InputError for an original that is none."""
        height, width = height or self.config.height, width or self.config.width
        original = original or (height, width)
        if min(original) < 1:
            raise InputError(f"an original of {original[0]} x {original[1]} pixels (height x width): both are at least 1")
        return self.told([(*original, 0, 0, height, width)] * n)


class SizedNames(Sized):
    def __init__(self, config: SizedNamesConfig) -> None:
        inner = config.inner.build()
        if not isinstance(inner, Conditioner):
            raise InputError(f"{type(config.inner).__name__} builds no conditioner")
        super().__init__(inner, config)

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        return {**self.inner.prepare(raw), **self.asked(len(raw))}


class SizedWords(Sized, Emphatic):
    inner: Emphatic

    def __init__(self, config: SizedWordsConfig) -> None:
        super().__init__(config.inner.build(), config)

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_said(said), **self.asked(len(said))}

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_away(said), **self.asked(len(said))}

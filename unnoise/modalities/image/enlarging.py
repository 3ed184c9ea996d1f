"""The condition of a super-resolution model: a smaller picture, noised on purpose (cascaded diffusion, Ho et al. 2021, 2106.15282,
section 3; Saharia et al. 2022, "Imagen", 2205.11487, section 2.3).

    low = shrink(x)                                       in training; what the model before it made, in sampling
    low_s = cos(pi s / 2) low + sin(pi s / 2) noise       noise-conditioning augmentation of strength s
    picture = enlarge(low_s), and s itself is told
In training s ~ U[0, strongest]: the model learns to trust its picture as much as s allows. Samples have faults that real pictures
have not; at a strength that hides these, one and the same model repairs them. What hides faults hides detail too: s = 0.1 is noise
of 20 levels of 255, more than pictures of few faults can afford. Both resamplings are bicubic, as Pillow's, and the small picture
is rounded to bytes, as another model makes it.

A convolutional model enlarges pictures of any size as well as of the one that it learnt from: edges are edges.
"""

import math
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unnoise.core.codec import Buildable, Codec, Conditioner, Following, Unconditional
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import Cond
from unnoise.modalities.image.codec import Pixels, PixelsConfig, as_tensor
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.syntax import Said
from unnoise.networks.embedding import NoiseEmbedding, Sinusoidal


@dataclass(frozen=True)
class EnlargingConfig:
    """Pictures that are learnt from, large.height x large.width, from ones smaller by `factor`, which divides both.

    inner: of the words that are told too; inner_dim: of its vector, 0 for none. dim: of the vector that the network is told.
    strongest: s in training reaches up to it. strength: s in sampling.
    """

    inner: Buildable
    large: PixelsConfig
    factor: int = 2
    dim: int = 64
    inner_dim: int = 0
    strongest: float = 0.2
    strength: float = 0.03

    def __post_init__(self) -> None:
        if self.factor < 2 or self.large.height % self.factor or self.large.width % self.factor:
            raise InputError(
                f"pictures of {self.large.height} x {self.large.width} cannot be enlarged {self.factor} times from whole pixels; "
                "give a factor of at least 2 that divides both sides"
            )
        for name in ("strongest", "strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)} is outside 0 ... 1")

    def build(self) -> "Enlarging":
        """One that reads the prompt language where the inner one does."""
        return EnlargingWords(self) if isinstance(self.inner, EmphaticConfig) else EnlargingNames(self)


class Enlarging(Following, ABC):
    """cond: picture (B, C, H, W), vector (B, dim), and the inner conditioner's tokens and mask."""

    def __init__(self, config: EnlargingConfig) -> None:
        super().__init__()
        inner = config.inner.build()
        if not isinstance(inner, Conditioner):
            raise InputError(f"{type(config.inner).__name__} builds no conditioner")
        self.config, self.inner = config, inner
        self.pixels = config.large.build()
        self.told = NoiseEmbedding(Sinusoidal(), config.dim, config.dim, config.inner_dim)

    def _nothing(self, n: int) -> Cond:
        return {"picture": torch.zeros(n, *self.pixels.shape()), "strength": torch.ones(n)}

    def alone(self) -> None:
        raise InputError(
            f"this model enlarges pictures {self.config.factor} times and has none to enlarge: name it behind the model that makes "
            "them (--then)"
        )

    def from_data(self, data: np.ndarray | Tensor, rng: Streams) -> Cond:
        return self._noised(self.shrunk(data), self.config.strongest * rng.uniform("strength"), rng)

    def from_made(self, made: np.ndarray | Tensor, rng: Streams) -> Cond:
        made = as_tensor(made)
        self._fits(made.shape[-1] if made.ndim == 4 else 0)
        if made.shape[-1] < self.config.large.channels:
            made = torch.cat([made, torch.full_like(made[..., :1], 255)], -1)
        return self._noised(made, torch.full((len(made),), self.config.strength), rng)

    def shrunk(self, data: np.ndarray | Tensor) -> Tensor:
        """uint8 (B, H, W, C), pictures of the training size -> uint8 (B, H / factor, W / factor, C)."""
        x, large = self.pixels.encode(data), self.config.large
        small = [large.height // self.config.factor, large.width // self.config.factor]
        return self.pixels.decode(interpolate(x, small, mode="bicubic", antialias=True))

    def follows(self, codec: Codec) -> None:
        """Any codec that decodes pictures may, whatever their size, and opaque ones also where transparent ones were learnt."""
        if isinstance(codec, Pixels | Latents):
            self._fits(codec.config.channels)

    def _fits(self, channels: int) -> None:
        if channels != self.config.large.channels and (channels, self.config.large.channels) != (3, 4):
            raise InputError(
                f"this model enlarges {_NAMES[self.config.large.channels]}; the model before it makes "
                f"{_NAMES.get(channels, 'none')}: train both with --alpha, or both with --no-alpha"
            )

    def kept(self, given: Cond) -> Cond:
        """All: guidance leads to the prompt, not away from the picture."""
        return given

    def _noised(self, low: Tensor, strength: Tensor, rng: Streams) -> Cond:
        """low uint8 (B, h, w, C), strength (B,) -> the entries."""
        height, width = low.shape[1:3]
        x, angle = self.pixels.resized(height, width).encode(low), (math.pi / 2 * strength)[:, None, None, None]
        x = angle.cos() * x + angle.sin() * rng.normal("augmentation", tuple(x.shape[1:]))
        large = [self.config.factor * side for side in (height, width)]
        return {"picture": interpolate(x, large, mode="bicubic", antialias=True), "strength": strength}

    def forward(self, prepared: Cond) -> Cond:
        cond = dict(self.inner({k: v for k, v in prepared.items() if k not in ("picture", "strength")}))
        vector = self.told(4 * prepared["strength"] - 2, cond.get("vector"))
        return {**cond, "picture": prepared["picture"], "vector": vector}


class EnlargingNames(Enlarging):
    """Of class names, or of nothing: told no words in training, it leaves prompts to the model before it."""

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        return {**self.inner.prepare(self._words(raw)), **self._nothing(len(raw))}

    def prepare_for(self, raw: Sequence[str | None], rng: Streams) -> Cond:
        return {**self.inner.prepare_for(self._words(raw), rng), **self._nothing(len(raw))}

    def _words(self, raw: Sequence[str | None]) -> Sequence[str | None]:
        return [None] * len(raw) if isinstance(self.inner, Unconditional) else raw


class EnlargingWords(Enlarging, Emphatic):
    inner: Emphatic

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_said(said), **self._nothing(len(said))}

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_away(said), **self._nothing(len(said))}


_NAMES = {1: "grey pictures", 3: "pictures in colour", 4: "transparent pictures"}

"""The condition of a super-resolution model: a smaller picture, noised on purpose (cascaded diffusion, Ho et al. 2021, 2106.15282,
section 3; Saharia et al. 2022, "Imagen", 2205.11487, section 2.3).

    low = shrink(x)                                       in training; what the model before it made, in sampling
    low_s = cos(pi s / 2) low + sin(pi s / 2) noise       noise-conditioning augmentation of strength s
    picture = enlarge(low_s), and s itself is told
In training s ~ U[0, strongest]: the model learns to trust its picture as much as s allows. Samples have faults that real pictures
have not; at a strength that hides these, one and the same model repairs them. Both resamplings are bicubic, as Pillow's.
Some pictures are withheld (0, and s = 1), so the model also knows what to draw where it is told nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unnoise.core.codec import Buildable, Codec, Conditioner, Following
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import Cond
from unnoise.modalities.image.codec import Pixels, PixelsConfig
from unnoise.networks.embedding import NoiseEmbedding, Sinusoidal


@dataclass(frozen=True)
class EnlargingConfig:
    """Pictures of large.height x large.width from ones smaller by `factor`, which divides both.

    inner: of the words that are told too; inner_dim: of its vector, 0 for none. dim: of the vector that the network is told.
    strongest: s in training reaches up to it. strength: s in sampling. withheld: share of the pictures in training.
    """

    inner: Buildable
    large: PixelsConfig
    factor: int = 2
    dim: int = 192
    inner_dim: int = 0
    strongest: float = 0.5
    strength: float = 0.1
    withheld: float = 0.05

    def __post_init__(self) -> None:
        if self.factor < 2 or self.large.height % self.factor or self.large.width % self.factor:
            raise InputError(
                f"pictures of {self.large.height} x {self.large.width} cannot be enlarged {self.factor} times from whole pixels; "
                "give a factor of at least 2 that divides both sides"
            )
        for name in ("strongest", "strength", "withheld"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)} is outside 0 ... 1")

    def build(self) -> "Enlarging":
        return Enlarging(self)


class Enlarging(Following):
    """cond: picture (B, C, H, W), vector (B, dim), and the inner conditioner's tokens and mask."""

    def __init__(self, config: EnlargingConfig) -> None:
        super().__init__()
        inner = config.inner.build()
        if not isinstance(inner, Conditioner):
            raise InputError(f"{type(config.inner).__name__} builds no conditioner")
        self.config, self.inner = config, inner
        large, k = config.large, config.factor
        self.large = large.build()
        self.small = PixelsConfig(large.height // k, large.width // k, large.channels, large.data_std).build()
        self.told = NoiseEmbedding(Sinusoidal(), config.dim, config.dim, config.inner_dim)

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        return {**self.inner.prepare(raw), **self._nothing(len(raw))}

    def prepare_for(self, raw: Sequence[str | None], rng: Streams) -> Cond:
        return {**self.inner.prepare_for(raw, rng), **self._nothing(len(raw))}

    def _nothing(self, n: int) -> Cond:
        return {"picture": torch.zeros(n, *self.large.shape()), "strength": torch.ones(n)}

    def from_data(self, data: np.ndarray | Tensor, rng: Streams) -> Cond:
        x = self.large.encode(data)
        low = interpolate(x, self.small.shape()[1:], mode="bicubic", antialias=True)
        given = self._noised(low, self.config.strongest * rng.uniform("strength"), rng)
        withheld = rng.uniform("withheld") < self.config.withheld
        return {k: torch.where(withheld.view(-1, *[1] * (v.ndim - 1)), self._nothing(1)[k], v) for k, v in given.items()}

    def from_made(self, made: np.ndarray | Tensor, rng: Streams) -> Cond:
        made = torch.as_tensor(made)
        self._fits(tuple(made.shape[1:]))
        return self._noised(self.small.encode(made), torch.full((len(made),), self.config.strength), rng)

    def follows(self, codec: Codec) -> None:
        """Any codec that decodes pictures may; of pixels the size is known beforehand."""
        if isinstance(codec, Pixels):
            c = codec.config
            self._fits((c.height, c.width, c.channels))

    def _fits(self, size: tuple[int, ...]) -> None:
        c = self.small.config
        if size != (c.height, c.width, c.channels):
            raise InputError(
                f"this model enlarges pictures of {c.height} x {c.width} x {c.channels} (height, width, channels) "
                f"{self.config.factor} times; the model before it makes {' x '.join(map(str, size))}"
            )

    def kept(self, given: Cond) -> Cond:
        """All: guidance leads to the prompt, not away from the picture."""
        return given

    def _noised(self, low: Tensor, strength: Tensor, rng: Streams) -> Cond:
        """low (B, C, h, w), strength (B,) -> the entries."""
        angle = (math.pi / 2 * strength)[:, None, None, None]
        low = angle.cos() * low + angle.sin() * rng.normal("augmentation", tuple(low.shape[1:]))
        return {"picture": interpolate(low, self.large.shape()[1:], mode="bicubic", antialias=True), "strength": strength}

    def forward(self, prepared: Cond) -> Cond:
        cond = dict(self.inner({k: v for k, v in prepared.items() if k not in ("picture", "strength")}))
        vector = self.told(4 * prepared["strength"] - 2, cond.get("vector"))
        return {**cond, "picture": prepared["picture"], "vector": vector}

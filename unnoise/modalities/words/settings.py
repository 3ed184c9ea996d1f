"""What networks of open checkpoints are told beside the words, as plain numbers.

WithSizes      vector = [the words' vector, phi(original height, original width, top, left, height, width)]            SDXL
               vector = [the words' vector, phi(original height, original width, top, left, aesthetic score)]          its refiner
WithShape      vector = [height, width, height / width]                                      PixArt-alpha at 1024 pixels
WithGuidance   guidance = the scale of the guidance that the network was distilled from                                FLUX.1 dev

phi: harmonics of each number (`embedding.size_features`; Podell et al. 2023, 2307.01952, section 2.2). The score, 1 to 10, is that
of a judge of taste; guidance leads away from a lower one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unnoise.core.codec import ToldGuidance, ToldSizes
from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.syntax import Said
from unnoise.networks.embedding import size_features


@dataclass(frozen=True)
class WithSizesConfig(EmphaticConfig):
    """inner: of words, with a vector; height, width: in pixels, asked for unless another size is; dim: harmonics a number.

    scores: the aesthetic score asked for, and the one led away from, in place of the size; None where no score is told.
    """

    inner: EmphaticConfig
    height: int
    width: int
    dim: int = 256
    scores: tuple[float, float] | None = None

    def build(self) -> "WithSizes":
        return WithSizes(self)


class WithSizes(ToldSizes, Emphatic):
    """cond: as the inner conditioner's, with a longer vector."""

    def __init__(self, config: WithSizesConfig) -> None:
        super().__init__()
        self.config, self.inner = config, config.inner.build()

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_said(said), **self.asked(len(said)), **self._scored(len(said), 0)}

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_away(said), **self.asked(len(said)), **self._scored(len(said), 1)}

    def forward(self, prepared: Cond) -> Cond:
        cond = self.inner({k: v for k, v in prepared.items() if k not in ("size", "score")})
        told = [size_features(prepared[k], self.config.dim) for k in ("size", "score") if k in prepared]
        return {**cond, "vector": torch.cat([cond["vector"], *(t.to(cond["vector"]) for t in told)], 1)}

    def kept(self, given: Cond) -> Cond:
        """All: guidance leads to the prompt, not away from a size."""
        return given

    def asked(self, n: int, height: int | None = None, width: int | None = None, original: tuple[int, int] | None = None) -> Cond:
        """-> size (n, 6), or (n, 4) where a score is told. By default originals of that very size, with nothing cropped.

        Raises InputError for an original that is none.
        """
        height, width = height or self.config.height, width or self.config.width
        original = original or (height, width)
        if min(original) < 1:
            raise InputError(f"an original of {original[0]} x {original[1]} pixels (height x width): both are at least 1")
        size = (*original, 0, 0) if self.config.scores else (*original, 0, 0, height, width)
        return {"size": torch.tensor([size] * n, dtype=torch.float32).reshape(n, -1)}

    def _scored(self, n: int, side: int) -> Cond:
        return {} if self.config.scores is None else {"score": torch.full((n, 1), self.config.scores[side])}


@dataclass(frozen=True)
class WithShapeConfig(EmphaticConfig):
    """inner: of words; height, width: in pixels, asked for unless another size is."""

    inner: EmphaticConfig
    height: int
    width: int

    def build(self) -> "WithShape":
        return WithShape(self)


class WithShape(ToldSizes, Emphatic):
    """cond: as the inner conditioner's, and vector (B, 3)."""

    def __init__(self, config: WithShapeConfig) -> None:
        super().__init__()
        self.config, self.inner = config, config.inner.build()

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_said(said), **self.asked(len(said))}

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_away(said), **self.asked(len(said))}

    def forward(self, prepared: Cond) -> Cond:
        return {**self.inner({k: v for k, v in prepared.items() if k != "vector"}), "vector": prepared["vector"]}

    def kept(self, given: Cond) -> Cond:
        return given

    def asked(self, n: int, height: int | None = None, width: int | None = None, original: tuple[int, int] | None = None) -> Cond:
        """-> vector (n, 3). InputError for an original: this model knows only how large a picture is to be."""
        if original is not None:
            raise InputError(
                f"original {original}: this model is told how large pictures are to be, not what they were; leave it out"
            )
        height, width = height or self.config.height, width or self.config.width
        return {"vector": torch.tensor([[height, width, height / width]] * n).reshape(n, -1)}


@dataclass(frozen=True)
class WithGuidanceConfig(EmphaticConfig):
    inner: EmphaticConfig

    def build(self) -> "WithGuidance":
        return WithGuidance(self)


class WithGuidance(ToldGuidance, Emphatic):
    """cond: as the inner conditioner's, and guidance (B,)."""

    def __init__(self, config: WithGuidanceConfig) -> None:
        super().__init__()
        self.config, self.inner = config, config.inner.build()

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        return {**self.inner.prepare_said(said), **self.scaled(len(said), 1.0)}

    def forward(self, prepared: Cond) -> Cond:
        return {**self.inner({k: v for k, v in prepared.items() if k != "guidance"}), "guidance": prepared["guidance"]}

    def kept(self, given: Cond) -> Cond:
        return given

    def scaled(self, n: int, guidance: float) -> Cond:
        """-> guidance (n,)."""
        return {"guidance": torch.full((n,), float(guidance))}

"""Pictures to be changed as the words say, by networks that read them in the sequence: FLUX.1 Kontext (Batifol et al. 2025,
2506.15742, section 3).

    context = E(x)     E the codec's `encode`: codes of the states' own scale, whose tokens lie behind those of what is drawn

What is drawn and what is looked at need not be of one size. Without a picture such a network draws from words alone.
"""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from torch import Tensor

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.image.codec import as_tensor
from unnoise.modalities.image.with_picture import WithPicture, coding
from unnoise.modalities.words.emphasis import EmphaticConfig

_NARROW = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104), (1024, 1024),
)  # fmt: skip
SIZES = (*_NARROW, *((b, a) for a, b in _NARROW[:-1]))
"""Heights and widths that Kontext was trained at."""
USUAL = 1024
"""The side of the square one."""


@dataclass(frozen=True)
class InContextConfig(EmphaticConfig):
    """inner: of words."""

    inner: EmphaticConfig

    def build(self) -> "InContext":
        return InContext(self)


class InContext(WithPicture):
    entry = "context"

    def __init__(self, config: InContextConfig) -> None:
        super().__init__(config.inner)
        self.config = config

    def seen_at(self, codec: Codec, height: int, width: int) -> tuple[int, int]:
        """Height and width at which a picture is best looked at, and drawn: of `SIZES` the one whose shape is nearest to its own,
        as large in all as the codec's pictures. InputError for a codec without codes."""
        config = coding(codec).config
        h, w = min(SIZES, key=lambda size: abs(size[1] / size[0] - width / height))
        scale, step = sqrt(config.height * config.width) / USUAL, 2 * config.autoencoder.factor
        return max(step, round(h * scale / step) * step), max(step, round(w * scale / step) * step)

    def of(self, codec: Codec, pictures: np.ndarray | Tensor) -> Cond:
        """-> context (B, C, h, w), to be `given` to `DiffusionModel.sample`. pictures: uint8 (B, H, W, 3) of any size, best that of
        `seen_at`.

        Raises InputError for pictures of another shape, and for a codec without codes.
        """
        x = as_tensor(pictures)
        if x.ndim != 4:
            raise InputError(f"pictures {tuple(x.shape)}: (B, H, W, 3) of torch.uint8 are changed")
        return {"context": coding(codec).resized(*x.shape[1:3]).encode(x)}

    def alone(self) -> None:
        """It draws from words alone, too."""

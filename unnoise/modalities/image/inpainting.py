"""Pictures to be filled in where a mask says so, by networks that see what is to stay (Rombach et al. 2021, 2112.10752, 4.5).

    picture = [m, E(x (1 - m))]      Stable Diffusion: m at the size of the codes, of the nearest pixel; E the codec's `encode`
    picture = [E(x (1 - m)), m']     FLUX.1 Fill: m' holds all pixels of a code as channels of their own

A pixel under the mask is middle grey, 0 in -1 ... 1.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, pixel_unshuffle

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.image.codec import as_tensor
from unnoise.modalities.image.with_picture import WithPicture, coding
from unnoise.modalities.words.emphasis import EmphaticConfig


@dataclass(frozen=True)
class CodedMaskConfig(EmphaticConfig):
    """inner: of words."""

    inner: EmphaticConfig

    def build(self) -> "CodedMask":
        return CodedMask(self)


@dataclass(frozen=True)
class WholeMaskConfig(EmphaticConfig):
    """inner: of words."""

    inner: EmphaticConfig

    def build(self) -> "WholeMask":
        return WholeMask(self)


class Inpainting(WithPicture, ABC):
    def __init__(self, config: CodedMaskConfig | WholeMaskConfig) -> None:
        super().__init__(config.inner)
        self.config = config

    def of(self, codec: Codec, pictures: np.ndarray | Tensor, masks: np.ndarray | Tensor) -> Cond:
        """-> picture (B, C', h, w), to be `given` to `DiffusionModel.sample`.

        pictures: uint8 (B, H, W, 3), as the codec encodes them; masks: bool (B, H, W), true where something new is to be drawn.
        Raises InputError for pictures and masks of different sizes.
        """
        x, m = as_tensor(pictures), as_tensor(masks).bool()
        if x.ndim != 4 or m.shape != x.shape[:3]:
            raise InputError(f"pictures {tuple(x.shape)} and masks {tuple(m.shape)}: (B, H, W, 3) and (B, H, W) are meant")
        coded = coding(codec)
        codes = coded.encoded(coded.pixels.encode(x) * ~m[:, None])
        return {"picture": self.beside(codes, m[:, None].to(codes))}

    def alone(self) -> None:
        raise InputError(
            "this model fills in pictures, and was given none: --fill PICTURE --mask MASK, in Python "
            "given=inpainting(model).of(model.codec, pictures, masks)"
        )

    @abstractmethod
    def beside(self, codes: Tensor, masks: Tensor) -> Tensor:
        """codes (B, c, h, w), masks (B, 1, H, W) of 0 and 1 -> (B, C', h, w)."""


class CodedMask(Inpainting):
    def fits(self, channels: int, states: int) -> bool:
        return channels == states + 1

    def beside(self, codes: Tensor, masks: Tensor) -> Tensor:
        return torch.cat([interpolate(masks, codes.shape[-2:], mode="nearest"), codes], 1)


class WholeMask(Inpainting):
    def fits(self, channels: int, states: int) -> bool:
        return channels > states and isqrt(channels - states) ** 2 == channels - states

    def beside(self, codes: Tensor, masks: Tensor) -> Tensor:
        factor = masks.shape[-1] // codes.shape[-1]
        return torch.cat([codes, pixel_unshuffle(masks, factor)], 1)

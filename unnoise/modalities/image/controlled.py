"""Pictures to be followed, edges or depth, by networks that see them: FLUX.1 Canny and Depth (Black Forest Labs 2024).

    picture = E(x)     E the codec's `encode`: codes of the states' own scale, beside them channel by channel

How closely the picture is followed was decided in training: there is no scale for it.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.image.with_picture import WithPicture, coding
from unnoise.modalities.words.emphasis import EmphaticConfig


@dataclass(frozen=True)
class ControlledConfig(EmphaticConfig):
    """inner: of words."""

    inner: EmphaticConfig

    def build(self) -> "Controlled":
        return Controlled(self)


class Controlled(WithPicture):
    def __init__(self, config: ControlledConfig) -> None:
        super().__init__(config.inner)
        self.config = config

    def of(self, codec: Codec, pictures: np.ndarray | Tensor) -> Cond:
        """-> picture (B, C, h, w), to be `given` to `DiffusionModel.sample`. pictures: uint8 (B, H, W, 3), as the codec encodes.

        Raises InputError for pictures of another shape, and for a codec without codes.
        """
        return {"picture": coding(codec).encode(pictures)}

    def alone(self) -> None:
        raise InputError(
            "this model follows pictures, such as edges or depth, and was given none: --follow PICTURE, in Python "
            "given=controlled(model).of(model.codec, pictures)"
        )

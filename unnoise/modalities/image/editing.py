"""Pictures to be changed as the words say, by networks that see them: InstructPix2Pix (Brooks et al. 2023, 2211.09800).

    picture = mu + std E(x)     E the codec's `encode`: the codes as the autoencoder makes them, not brought to the states' scale
    picture = E(x)              CosXL Edit

Such a network is guided twice, towards the picture and towards the words (`guidance.classifier_free_twice`).
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
class EditingConfig(EmphaticConfig):
    """inner: of words. scaled: whether the picture's codes are of the states' scale."""

    inner: EmphaticConfig
    scaled: bool = False

    def build(self) -> "Editing":
        return Editing(self)


class Editing(WithPicture):
    def __init__(self, config: EditingConfig) -> None:
        super().__init__(config.inner)
        self.config = config

    def of(self, codec: Codec, pictures: np.ndarray | Tensor) -> Cond:
        """-> picture (B, C, h, w), to be `given` to `DiffusionModel.sample`. pictures: uint8 (B, H, W, 3), as the codec encodes.

        Raises InputError for pictures of another shape, and for a codec without codes.
        """
        coded = coding(codec)
        codes = coded.encode(pictures)
        return {"picture": codes if self.config.scaled else codes * coded.std[:, None, None] + coded.mean[:, None, None]}

    def alone(self) -> None:
        raise InputError(
            "this model changes pictures, and was given none: --change PICTURE, in Python "
            "given=editing(model).of(model.codec, pictures)"
        )

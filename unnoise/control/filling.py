"""Pictures filled in where a mask says so, by any model: what is to stay replaces what the model says of it (Song et al. 2021,
2011.13456, appendix I.2; on codes: Avrahami et al. 2023, 2206.02779, section 3.2).

    D <- m D + (1 - m) x_0     m 1 where something new is drawn, x_0 the states of the given pictures

So what stays lies at every step where the walk of its own noise would have it, x_t = a x_0 + s eps, with any sampler, and the rest
is drawn to go with it. A model that was trained to fill in is told the picture instead (`modalities.image.inpainting`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from unnoise.control.sampling import Start
from unnoise.core.codec import Codec
from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.predictions import Mean, Prediction
from unnoise.core.state import State
from unnoise.modalities.image.codec import as_tensor
from unnoise.modalities.image.latents import Latents
from unnoise.networks.layers import pad_to_multiple


@dataclass(frozen=True)
class Fill:
    """data: pictures as the codec encodes them, one row a sample. masks: bool (B, H, W), true where something new is drawn.

    strength: the share of the steps that is walked. At 1 nothing is seen of what lies under the mask; below, it is what is begun
    with there, as with `Start`.
    """

    data: Any
    masks: Any
    strength: float = 1.0

    def __post_init__(self) -> None:
        Start(self.data, self.strength)  # refuses a strength that is none


def known(codec: Codec, fill: Fill) -> tuple[Tensor, Tensor]:
    """x_0 (B, C, h, w), and m (B, 1, h, w), bool: a state is drawn anew where any pixel of its own is to be.

    Raises InputError for masks of another size than the pictures, and for a codec of anything but pictures.
    """
    shape, m = codec.shape(), as_tensor(fill.masks)
    data = as_tensor(fill.data) if not isinstance(fill.data, dict) else fill.data
    if not isinstance(shape, tuple) or len(shape) != 3 or not isinstance(data, Tensor) or data.ndim != 4:
        raise InputError("pictures are filled in, uint8 (B, H, W, C); this model, or what was given, has none")
    if m.dtype != torch.bool or m.shape != data.shape[:3]:
        raise InputError(f"pictures {tuple(data.shape)} and masks {tuple(m.shape)} of {m.dtype}: bool (B, H, W) are meant")
    x = codec.encode(data)
    assert isinstance(x, Tensor)
    factor = codec.config.autoencoder.factor if isinstance(codec, Latents) else 1
    return x, max_pool2d(pad_to_multiple(m[:, None].float(), factor), factor).bool()


def filled(denoise: Denoise, x_0: Tensor, m: Tensor) -> Denoise:
    """The denoiser that says x_0 where m is false. It goes around all guidance. InputError for what predicts no mean."""

    def keep(x_t: State, t: Tensor) -> Prediction:
        said = denoise(x_t, t)
        if not isinstance(said, Mean):
            raise InputError(f"filling in keeps the mean of continuous data; this model predicts {type(said).__name__}")
        return Mean(torch.where(m, said.x0, x_0.to(said.x0.dtype)))

    return keep

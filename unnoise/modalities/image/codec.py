"""Pictures <-> state: uint8 pixels (B, H, W, C) <-> float32 (B, C, H, W) in [-1, 1], x / 127.5 - 1.

Pictures with transparency (C = 4) have straight alpha outside and premultiplied inside (see `alpha`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.state import State
from unnoise.modalities.image.alpha import premultiplied, straight
from unnoise.modalities.image.show import write_pictures


@dataclass(frozen=True)
class PixelsConfig:
    """Pictures of `height` x `width` pixels; `channels` 1 (grey), 3 (RGB) or 4 (RGBA).

    data_std: the standard deviation of the encoded training pictures, which preconditioning divides by.
    """

    height: int
    width: int
    channels: int = 3
    data_std: float = 0.5

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.channels not in (1, 3, 4):
            raise InputError(f"pictures of {self.height} x {self.width} x {self.channels}: sides are positive, channels 1, 3 or 4")
        if not 0 < self.data_std < float("inf"):
            raise InputError(f"data_std {self.data_std} must be positive")

    def build(self) -> "Pixels":
        return Pixels(self)


@runtime_checkable
class Resizable(Protocol):
    """A codec of pictures that come in other sizes too."""

    def resized(self, height: int, width: int) -> Codec:
        """The same codec for pictures of height x width pixels. Raises InputError for a size that cannot be."""
        ...


def resized(codec: Codec, height: int, width: int) -> Codec:
    """The codec for pictures of another size. Raises InputError for sides outside 4 to 4096, and for a codec of a single size."""
    if not (4 <= height <= 4096 and 4 <= width <= 4096):
        raise InputError(f"pictures of {height} x {width} pixels (height x width): the sides are 4 to 4096")
    if not isinstance(codec, Resizable):
        raise InputError(f"a {type(codec).__name__} codec makes data of one size only; leave the height and width out")
    return codec.resized(height, width)


def as_tensor(data: Any) -> Tensor:
    """torch.as_tensor, also of PIL's pictures of one size. What may only be read, as these, is copied: torch would warn of it.

    InputError for what holds no numbers.
    """
    if isinstance(data, Tensor):
        return data
    try:
        x = np.require(data, requirements="W")
    except ValueError as e:  # pictures of several sizes
        raise InputError(f"pictures of one size are meant, (B, H, W, C): {e}") from None
    if x.dtype.kind not in "biuf":
        raise InputError(f"{data!r}: no pictures; they are uint8 (B, H, W, C)")
    return torch.as_tensor(x)


class Pixels(Codec):
    bound = 1.0

    def __init__(self, config: PixelsConfig) -> None:
        super().__init__()
        self.config = config

    def shape(self) -> tuple[int, int, int]:
        return self.config.channels, self.config.height, self.config.width

    def resized(self, height: int, width: int) -> "Pixels":
        return Pixels(replace(self.config, height=height, width=width))

    def encode(self, data: np.ndarray | Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> float32 (B, C, H, W) in [-1, 1], on the device of the data. InputError for another size or type."""
        x = as_tensor(data)
        channels, height, width = self.shape()
        if x.dtype != torch.uint8 or tuple(x.shape[1:]) != (height, width, channels):
            wanted = f"(B, {height}, {width}, {channels}) of torch.uint8"
            raise InputError(f"pictures {tuple(x.shape)} of {x.dtype} do not fit; this model takes {wanted}")
        x = x.permute(0, 3, 1, 2)
        if channels == 4:
            return (premultiplied(x.float() / 255) * 2 - 1).contiguous()
        return (x.float() / 127.5 - 1).contiguous()

    def decode(self, state: State) -> Tensor:
        """float (B, C, H, W) -> uint8 (B, H, W, C) on the CPU, rounded; what lies outside [-1, 1] is clamped, nan is 0."""
        if not isinstance(state, Tensor):
            raise InputError("pixels decode one tensor (B, C, H, W), not a mapping of fields")
        x = ((state.detach().float() + 1) * 127.5).nan_to_num(nan=0.0)
        if self.config.channels == 4:
            x = straight(x / 255) * 255
        x = x.round().clamp(0, 255)
        return x.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()

    def write(self, data: Tensor, out: Path, meta: Sequence[Mapping[str, Any]]) -> list[Path]:
        """One PNG a picture with its row of `meta` inside, and sheet.png, last in the list. See `show.write_pictures`."""
        return write_pictures(list(data), out, meta)

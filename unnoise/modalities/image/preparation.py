"""Pictures as a pretrained network wants them: resized, cut, normalised."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unnoise.core.errors import InputError


@dataclass(frozen=True)
class Preparation:
    """uint8 (n, 3, H, W) -> (n, 3, h, w): resized, cut out of the middle, (x * scale - mean) / std.

    size: (height, width), or how long the shorter side is made; None: as it is. crop: (height, width), or None.
    """

    size: tuple[int, int] | int | None
    mode: str
    crop: tuple[int, int] | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        if self.size is not None:
            # on uint8, as Pillow computes: fixed point, rounded, what overshoots cut off
            x = interpolate(x, self._size(*x.shape[2:]), mode=self.mode, antialias=True)
        if self.crop is not None:
            (h, w), (height, width) = self.crop, x.shape[2:]
            if h > height or w > width:
                raise InputError(f"pictures of {height}x{width} cannot be cut to {h}x{w}: the network's preprocessing is at odds")
            top, left = (height - h) // 2, (width - w) // 2
            x = x[:, :, top : top + h, left : left + w]
        mean, std = (torch.tensor(v)[:, None, None] for v in (self.mean, self.std))
        return (x * self.scale - mean) / std

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        assert self.size is not None
        short, long = min(height, width), max(height, width)
        made = int(self.size * long / short)
        return (self.size, made) if height <= width else (made, self.size)

    @staticmethod
    def of(told: Mapping[str, Any], where: str) -> "Preparation":
        """From transformers' preprocessor configuration. Raises InputError for what it asks that is not known here."""
        modes = {2: "bilinear", 3: "bicubic"}
        size: tuple[int, int] | int | None = None
        if told.get("do_resize", True):
            asked = told["size"]
            if asked.get("shortest_edge"):
                size = int(asked["shortest_edge"])
            elif asked.get("height") and asked.get("width"):
                size = int(asked["height"]), int(asked["width"])
            else:
                raise InputError(
                    f"{where}: pictures are to be resized to {dict(asked)}; a shortest_edge, or height and width are known"
                )
            if int(told["resample"]) not in modes:
                raise InputError(f"{where}: resampling number {told['resample']}; 2 (bilinear) and 3 (bicubic) are known")
        crop = told["crop_size"] if told.get("do_center_crop") else None
        normal = bool(told.get("do_normalize", True))
        return Preparation(
            size,
            modes.get(int(told.get("resample") or 3), "bicubic"),
            (int(crop["height"]), int(crop["width"])) if crop else None,
            float(told["rescale_factor"]) if told.get("do_rescale", True) else 1.0,
            tuple(told["image_mean"]) if normal else (0.0,) * 3,
            tuple(told["image_std"]) if normal else (1.0,) * 3,
        )

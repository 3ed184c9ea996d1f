"""Transparency: straight outside, where files keep a colour c and its opacity a; premultiplied inside (Porter & Duff 1984):

    p = a c        c = p / a        over(p, a; b) = p + (1 - a) b,  on a background of colour b
Premultiplied numbers may be averaged, resized and learned: where a = 0 a straight colour means nothing, and p = 0.
All pictures here are float (B, 4, H, W), red, green, blue and a in 0 ... 1.
"""

import torch
from torch import Tensor


def premultiplied(x: Tensor) -> Tensor:
    """Straight -> premultiplied."""
    return torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)


def straight(x: Tensor) -> Tensor:
    """Premultiplied -> straight, in 0 ... 1 whatever x was; invisible pixels are black."""
    opacity = x[:, 3:].clamp(0, 1)
    colour = (x[:, :3] / opacity.clamp(min=1e-6)).clamp(0, 1)
    return torch.cat([torch.where(opacity > 0, colour, 0), opacity], 1)


def over(x: Tensor, background: Tensor) -> Tensor:
    """Premultiplied, on backgrounds (B, 3), one colour each -> opaque pictures (B, 3, H, W)."""
    return x[:, :3] + (1 - x[:, 3:]) * background[..., None, None]

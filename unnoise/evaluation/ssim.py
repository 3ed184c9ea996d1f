"""Structural similarity of two pictures (SSIM, Wang et al. 2004, IEEE Transactions on Image Processing 13(4)).

    SSIM(x, y) = (2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx^2 + sy^2 + C2)),    C1 = (0.01 L)^2,  C2 = (0.03 L)^2

with means, variances and covariance under a Gaussian window of 11 x 11 pixels, sigma 1.5 (section III-B); averaged over all places
where the window lies within the picture, and over channels. L is the range of the values.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from unnoise.core.errors import InputError

_SIDE, _SIGMA = 11, 1.5


def ssim(x: Tensor, y: Tensor, span: float = 255.0) -> Tensor:
    """x, y (B, C, H, W) in a range of length `span` -> (B,) float64, 1 for equal ones. InputError for sides under 11."""
    if x.shape != y.shape or x.ndim != 4 or min(x.shape[2:]) < _SIDE:
        raise InputError(
            f"pictures {tuple(x.shape)} and {tuple(y.shape)}: two alike (B, C, H, W), of 11 pixels a side or more, are meant"
        )
    x, y = x.double(), y.double()
    mx, my, xx, yy, xy = (_windowed(v) for v in (x, y, x * x, y * y, x * y))
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    likeness = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2)
    size = (mx.square() + my.square() + c1) * (xx - mx.square() + yy - my.square() + c2)
    return (likeness / size).flatten(1).mean(1)


def _windowed(x: Tensor) -> Tensor:
    """Means under the window, of every channel by itself: (B, C, H - 10, W - 10)."""
    place = torch.arange(_SIDE, dtype=x.dtype, device=x.device) - _SIDE // 2
    w = torch.exp(-place.square() / (2 * _SIGMA**2))
    w = w / w.sum()
    flat = x.flatten(0, 1)[:, None]
    return conv2d(conv2d(flat, w.view(1, 1, -1, 1)), w.view(1, 1, 1, -1)).view(*x.shape[:2], x.shape[2] - 10, x.shape[3] - 10)

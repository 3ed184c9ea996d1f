"""One picture, many looks: what changes about a picture while what it shows stays the same, drawn anew each time it is seen.

    moved       turned by up to 14 degrees, made 0.78 to 1.28 times as large, squeezed by a tenth, shifted by a tenth of its side
    recoloured  contrast and brightness of each channel: colours stay what they are called
    blurred     half of them made small and large again, to up to a third of the side
    noise       normal, of up to 0.06
Never mirrored: words would not be words, and left would be right. All draws are the sample's own.
"""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from unnoise.core.random import Streams

_TURN, _ZOOM, _SQUEEZE, _SHIFT = 0.25, 0.25, 0.1, 0.2  # radians; log; log; half sides
_CONTRAST, _BRIGHTNESS, _NOISE = 0.25, 0.12, 0.06


def varied(x: Tensor, rng: Streams) -> Tensor:
    """x (B, C, H, W) in [-1, 1], white around -> the same shape; a little beyond [-1, 1] here and there."""
    x = _moved(x, rng)
    device, channels = x.device, x.shape[1]
    gain = (_CONTRAST * rng.normal("contrast", device=device)).clamp(-0.5, 0.5).exp()
    offset = _BRIGHTNESS * rng.normal("brightness", (channels,), device=device)
    x = _blurred(x, rng) * gain[:, None, None, None] + offset[..., None, None]
    amount = _NOISE * rng.uniform("amount", device=device)
    return x + amount[:, None, None, None] * rng.normal("noise", tuple(x.shape[1:]), device=device)


def _moved(x: Tensor, rng: Streams) -> Tensor:
    turn, zoom, squeeze, right, down = (2 * rng.uniform("moved", (5,), device=x.device) - 1).unbind(1)
    cos, sin = (_TURN * turn).cos(), (_TURN * turn).sin()
    wide = (_ZOOM * zoom).exp()
    high = wide * (_SQUEEZE * squeeze).exp()
    rows = [torch.stack([cos * wide, -sin * wide, _SHIFT * right], 1), torch.stack([sin * high, cos * high, _SHIFT * down], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return 1 + grid_sample(x - 1, grid, align_corners=False)  # what comes in from outside is white


def _blurred(x: Tensor, rng: Streams) -> Tensor:
    """Half as they are, a quarter each at 1/2 and at 1/3 of the detail."""
    which = rng.uniform("blurred", device=x.device)
    for factor, low in ((2, 0.5), (3, 0.75)):
        rows = ((which >= low) & (which < low + 0.25)).nonzero()[:, 0]
        if len(rows) and min(x.shape[2:]) >= 4 * factor:
            small = avg_pool2d(x[rows], factor, ceil_mode=True)
            x = x.index_copy(0, rows, interpolate(small, x.shape[2:], mode="bilinear", align_corners=False))
    return x

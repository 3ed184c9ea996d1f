"""One picture, many looks: what changes about a picture while what it shows stays the same, drawn anew each time it is seen.

    laid        transparent ones: half over white, half over any light colour
    moved       turned by up to 14 degrees, made 0.78 to 1.28 times as large, squeezed by a tenth, shifted by a tenth of its side
    recoloured  contrast, the brightness of each channel, and how full colours are: they stay what they are called
    blurred     half of them made small and large again, to up to a third of the side
    cut out     a rectangle in half of them, of up to 0.4 of the side, one colour (DeVries & Taylor 2017, 1708.04552)
    noise       normal, of up to 0.06
Never mirrored: words would not be words, and left would be right. All draws are the sample's own.
"""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

from unnoise.core.random import Streams
from unnoise.modalities.image.alpha import over, premultiplied

_TURN, _ZOOM, _SQUEEZE, _SHIFT = 0.25, 0.25, 0.1, 0.2  # radians; log; log; half sides
_CONTRAST, _BRIGHTNESS, _NOISE = 0.25, 0.12, 0.06
_PALE, _FULL, _CUT = 0.5, 1.3, 0.4


def laid(pixels: Tensor, rng: Streams) -> tuple[Tensor, Tensor]:
    """uint8 (B, H, W, C) -> opaque ones, of 1 or 3 channels, and the colours that lie around them, (B, 1 or 3) in [-1, 1].

    Opaque pictures stay as they are, and have white around them.
    """
    n, channels = len(pixels), pixels.shape[-1]
    if channels != 4:
        return pixels, torch.ones(n, channels)
    light = rng.uniform("behind", (4,))
    colours = torch.where(light[:, :1] < 0.5, 1, 0.4 + 0.6 * light[:, 1:])
    x = over(premultiplied(pixels.permute(0, 3, 1, 2).float() / 255), colours)
    return (255 * x).round().to(torch.uint8).permute(0, 2, 3, 1), 2 * colours - 1


def varied(x: Tensor, rng: Streams, around: Tensor | None = None) -> Tensor:
    """x (B, C, H, W) in [-1, 1] -> the same shape; a little beyond [-1, 1] here and there. around: (B, C), by default white."""
    x = _moved(x, rng, around)
    device, channels = x.device, x.shape[1]
    gain = (_CONTRAST * rng.normal("contrast", device=device)).clamp(-0.5, 0.5).exp()
    offset = _BRIGHTNESS * rng.normal("brightness", (channels,), device=device)
    fullness = _PALE + (_FULL - _PALE) * rng.uniform("fullness", device=device)[:, None, None, None]
    grey = x.mean(1, keepdim=True)
    x = _blurred(grey + fullness * (x - grey), rng) * gain[:, None, None, None] + offset[..., None, None]
    amount = _NOISE * rng.uniform("amount", device=device)
    return _cut_out(x, rng) + amount[:, None, None, None] * rng.normal("noise", tuple(x.shape[1:]), device=device)


def _moved(x: Tensor, rng: Streams, around: Tensor | None = None) -> Tensor:
    turn, zoom, squeeze, right, down = (2 * rng.uniform("moved", (5,), device=x.device) - 1).unbind(1)
    cos, sin = (_TURN * turn).cos(), (_TURN * turn).sin()
    wide = (_ZOOM * zoom).exp()
    high = wide * (_SQUEEZE * squeeze).exp()
    rows = [torch.stack([cos * wide, -sin * wide, _SHIFT * right], 1), torch.stack([sin * high, cos * high, _SHIFT * down], 1)]
    grid = affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    outside = x.new_ones(()) if around is None else around[..., None, None].to(x)
    return outside + grid_sample(x - outside, grid, align_corners=False)  # what comes in from outside


def _cut_out(x: Tensor, rng: Streams) -> Tensor:
    """Half as they are; of the others a rectangle of any place and colour."""
    height, width = x.shape[2:]
    some = rng.uniform("cut", device=x.device) < 0.5
    middle_y, middle_x, high, wide = rng.uniform("cut/where", (4,), device=x.device).unbind(1)
    rows, columns = ((torch.arange(n, device=x.device) + 0.5) / n for n in (height, width))
    inside = (rows - middle_y[:, None]).abs()[:, :, None] < _CUT / 2 * high[:, None, None]
    inside = inside & ((columns - middle_x[:, None]).abs()[:, None, :] < _CUT / 2 * wide[:, None, None])
    colour = 2 * rng.uniform("cut/colour", (x.shape[1],), device=x.device) - 1
    return torch.where((some[:, None, None] & inside)[:, None], colour[..., None, None], x)


def _blurred(x: Tensor, rng: Streams) -> Tensor:
    """Half as they are, a quarter each at 1/2 and at 1/3 of the detail."""
    which = rng.uniform("blurred", device=x.device)
    for factor, low in ((2, 0.5), (3, 0.75)):
        rows = ((which >= low) & (which < low + 0.25)).nonzero()[:, 0]
        if len(rows) and min(x.shape[2:]) >= 4 * factor:
            small = avg_pool2d(x[rows], factor, ceil_mode=True)
            x = x.index_copy(0, rows, interpolate(small, x.shape[2:], mode="bilinear", align_corners=False))
    return x

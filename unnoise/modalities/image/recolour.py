"""One object in another colour: its main hue turned, its shading kept.

In HSV (Smith 1978), pixels of saturation above SATURATED within WIDTH of the most frequent hue, h0 the mean of theirs, take the
wanted colour's hue; saturation and value keep their own differences and take the wanted colour's mean:

    h <- h* + (h - h0),    s <- s s* / mean(s),    v <- v v* / mean(v)
"""

import math

import numpy as np
from PIL import Image

SATURATED, WIDTH = 0.25, 45 / 360
ENOUGH = 0.55
"""Share of the opaque pixels that must be of one hue."""


def _hsv(pixels: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float (H, W, 3) in 0 ... 1."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., :3])).convert("HSV"), dtype=np.float64) / 255


def _main(pixels: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """HSV, the main hue in 0 ... 1, and which pixels have it."""
    hsv = _hsv(pixels)
    seen = (pixels[..., 3] > 128) & (hsv[..., 1] > SATURATED) & (hsv[..., 2] > 0.2)
    if not seen.any():
        return hsv, 0.0, seen
    counts, edges = np.histogram(hsv[..., 0][seen], bins=36, range=(0, 1))
    around = counts + np.roll(counts, 1) + np.roll(counts, -1)
    peak = edges[int(around.argmax())] + 0.5 / 36
    off = (hsv[..., 0] - peak + 0.5) % 1 - 0.5
    chosen = seen & (np.abs(off) < WIDTH)
    return hsv, float(peak + off[chosen].mean()), chosen


def main_hue(pixels: np.ndarray) -> float:
    """The hue that most of what is seen of uint8 (H, W, 4) has, 0 to 1 around the circle; nan where nothing is saturated."""
    _, hue, chosen = _main(pixels)
    return hue % 1 if chosen.any() else math.nan


def one_hue(pixels: np.ndarray) -> bool:
    """Whether most of what is seen of uint8 (H, W, 4) has one hue."""
    opaque = pixels[..., 3] > 128
    return bool(opaque.any()) and float(_main(pixels)[2].sum() / opaque.sum()) >= ENOUGH


def recoloured(pixels: np.ndarray, rgb: tuple[int, int, int]) -> np.ndarray:
    """uint8 (H, W, 4), its main hue now that of `rgb`."""
    hsv, hue, chosen = _main(pixels)
    wanted = _hsv(np.array([[rgb]], dtype=np.uint8))[0, 0]
    out = hsv.copy()
    out[..., 0] = np.where(chosen, (hsv[..., 0] - hue + wanted[0]) % 1, hsv[..., 0])
    for k in (1, 2):
        mean = hsv[..., k][chosen].mean() if chosen.any() else 1.0
        out[..., k] = np.where(chosen, np.clip(hsv[..., k] * wanted[k] / max(mean, 1e-6), 0, 1), hsv[..., k])
    image = Image.fromarray((out * 255).round().astype(np.uint8), "HSV").convert("RGB")
    return np.concatenate([np.asarray(image), pixels[..., 3:]], -1)

"""One picture file -> uint8 pixels of the wanted size: orientation, palettes, 16 bits, CMYK and transparency taken care of."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageColor, ImageOps

from unnoise.core.errors import InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
LARGEST_PIXELS = 90_000_000
"""A picture that unpacks to more pixels is taken for a decompression bomb, and not decoded."""
SMALLEST_SIDE = 4
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's names, by channels."""
_GREY = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L"})
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "DIB")


class Unreadable(Exception):
    """Why a picture is left out, in a few words."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before any pixel is decoded: upright size, and whether it has colour and transparency."""

    width: int
    height: int
    grey: bool
    alpha: bool


@dataclass(frozen=True)
class Target:
    """What every picture of a set becomes; `channels` 1 (grey), 3 (RGB) or 4 (RGBA, straight alpha).

    Of another shape it is cropped about the centre, or else padded, or stretched.
    """

    height: int
    width: int
    channels: int
    background: tuple[int, int, int]
    pad: bool
    stretch: bool = False


def colour(name: str) -> tuple[int, int, int]:
    """A colour by CSS name or #rrggbb; InputError for another."""
    try:
        r, g, b = ImageColor.getrgb(name)[:3]
    except ValueError:
        raise InputError(f"background {name!r} is no colour; give a name such as white or black, or #rrggbb") from None
    return r, g, b


@contextmanager
def bombs_refused() -> Iterator[None]:
    """Pillow warns of pictures between one and two times its limit; we leave them out by name, so the warning is noise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module="PIL")
        yield


def inspect(file: IO[bytes]) -> Header:
    """Reads the header alone. Raises Unreadable."""
    with _reasons(), Image.open(file, formats=_FORMATS) as im:
        width, height = im.size
        if width * height > LARGEST_PIXELS:
            raise Unreadable(f"{width} x {height}, over {LARGEST_PIXELS // 10**6} million pixels")
        if min(width, height) < SMALLEST_SIDE:
            raise Unreadable(f"{width} x {height}, smaller than {SMALLEST_SIDE} x {SMALLEST_SIDE}")
        # Pillow would decode a whole PNG to look for orientation behind its pixels; where it stands there, only the size is unknown
        exif = im.getexif() if im.format != "PNG" or "exif" in im.info else {}
        if exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):
            width, height = height, width
        return Header(width, height, im.mode in _GREY, im.has_transparency_data)


def seen_through(file: IO[bytes]) -> bool:
    """Whether any pixel is transparent; the header alone is read where it knows of none. Raises Unreadable."""
    with _reasons(), Image.open(file, formats=_FORMATS) as im:
        if im.width * im.height > LARGEST_PIXELS:
            raise Unreadable(f"{im.width} x {im.height}, over {LARGEST_PIXELS // 10**6} million pixels")
        if not im.has_transparency_data:
            return False
        least = im.convert("RGBA").getchannel("A").getextrema()[0]
        return float(least if isinstance(least, int | float) else min(least)) < 255


def decode(file: IO[bytes], target: Target) -> np.ndarray:
    """The picture as uint8 (height, width, channels). Raises Unreadable."""
    with _reasons(), Image.open(file, formats=_FORMATS) as im:
        if im.width * im.height > LARGEST_PIXELS:
            raise Unreadable(f"{im.width} x {im.height}, over {LARGEST_PIXELS // 10**6} million pixels")
        # a JPEG decodes at 1/2, 1/4 or 1/8 for less; twice the target is left for Lanczos to work on
        if im.format == "JPEG" and im.mode in ("L", "RGB"):
            side = 2 * max(target.height, target.width)
            im.draft(im.mode, (side, side))
        upright = ImageOps.exif_transpose(im)
        return fit(flatten(upright, target), target)


def flatten(im: Image.Image, target: Target) -> Image.Image:
    """Any mode -> "L" or "RGB", transparent parts over the background; or "RGBA"."""
    if im.mode.startswith("I") or im.mode == "F":
        im = Image.fromarray(to_bytes(np.asarray(im)))
    elif im.has_transparency_data and target.channels < 4:
        im = im.convert("RGBA")
        im = Image.alpha_composite(Image.new("RGBA", im.size, (*target.background, 255)), im)
    return im.convert(MODES[target.channels])


def fit(im: Image.Image, target: Target) -> np.ndarray:
    """Resized with antialiasing (Lanczos): whole, cropped about the centre, or padded with the background (RGBA: nothing)."""
    size = (target.width, target.height)
    if target.stretch:
        im = im.resize(size, Image.Resampling.LANCZOS)
    elif target.pad:
        grey = ImageColor.getcolor("rgb({},{},{})".format(*target.background), "L")
        fill = {1: grey, 3: target.background, 4: (0, 0, 0, 0)}[target.channels]
        im = ImageOps.pad(im, size, method=Image.Resampling.LANCZOS, color=fill)
    else:
        im = ImageOps.fit(im, size, method=Image.Resampling.LANCZOS)
    x = np.asarray(im, dtype=np.uint8).reshape(target.height, target.width, target.channels)
    return x if target.channels < 4 else np.where(x[..., 3:] > 0, x, np.uint8(0))  # what cannot be seen has no colour


def to_bytes(x: np.ndarray) -> np.ndarray:
    """One deep grey picture (16 or 32 bits, or floats) -> uint8; the range is the format's, not the picture's own."""
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all() or low < 0 or high > 65535:
        raise Unreadable(f"grey values from {low:g} to {high:g}; 0 to 1, 255 or 65535 can be read")
    if x.dtype.kind == "f":
        factor = 255.0 if high <= 1 else 1.0 if high <= 255 else 1 / 257
    else:
        factor = 1.0 if x.dtype.itemsize == 4 and high <= 255 else 1 / 257
    return np.round(x * factor).astype(np.uint8)


@contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except Unreadable:
        raise
    except Image.DecompressionBombError:
        raise Unreadable(f"over {LARGEST_PIXELS // 10**6} million pixels") from None
    except Image.UnidentifiedImageError:
        raise Unreadable("not a picture, whatever its name says") from None
    except Exception as e:  # Pillow's decoders meet broken bytes with a dozen kinds of exception
        raise Unreadable("truncated" if "truncated" in str(e).lower() else f"cannot be decoded ({e})") from None

"""Sixteen things drawn by code, each in any colour: polygons in a unit square, painted one over the other.

A patch is filled with the thing's colour times its `shade`, with a fixed `ink`, or cut out of what lies below it. Curves are
polygons of 48 corners: at the sizes that scenes have nobody can tell.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from PIL import Image, ImageDraw

from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.vocabulary import COLOURS, DRAWN, SHAPES, Vocabulary
from unnoise.modalities.image.scenes.world import Box

Points = np.ndarray  # (n, 2): x to the right, y down


@dataclass(frozen=True)
class Patch:
    """A polygon. shade: 1 the thing's colour, less is darker; ink: a fixed colour instead; cut: a hole instead."""

    points: Points
    shade: float = 1.0
    ink: tuple[int, int, int] | None = None
    cut: bool = False
    outlined: bool = True


@dataclass(frozen=True)
class Shape:
    """patches: within the unit square, the first ones at the bottom. room: see `Sprites.room`."""

    patches: tuple[Patch, ...]
    room: Box | None = None

    def tight(self) -> "Shape":
        """The same with the corners at 0 and the longer side 1; `room` is given in the tight box already."""
        corners = np.concatenate([p.points for p in self.patches if not p.cut])
        low, side = corners.min(0), float(np.ptp(corners, 0).max())
        return Shape(tuple(Patch((p.points - low) / side, p.shade, p.ink, p.cut, p.outlined) for p in self.patches), self.room)

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Width and height; the longer is 1 in a tight shape."""
        x, y = np.concatenate([p.points for p in self.patches if not p.cut]).max(0)
        return float(x), float(y)


def _polygon(*corners: tuple[float, float]) -> Points:
    return np.array(corners, dtype=float)


def _ellipse(x: float, y: float, rx: float, ry: float | None = None, start: float = 0.0, end: float = 360.0) -> Points:
    """An arc in degrees, clockwise from the right (y is down); the whole ellipse by default."""
    a = np.radians(np.linspace(start, end, 49))
    return np.stack([x + rx * np.cos(a), y + (rx if ry is None else ry) * np.sin(a)], 1)


def _star(points: int, inner: float) -> Points:
    a = np.arange(2 * points) * math.pi / points - math.pi / 2
    r = np.where(np.arange(2 * points) % 2 == 0, 0.5, 0.5 * inner)
    return np.stack([0.5 + r * np.cos(a), 0.5 + r * np.sin(a)], 1)


def _heart() -> Points:
    """x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    t = np.linspace(0, 2 * math.pi, 61)[:-1]
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], 1) / 32


def _crescent() -> Points:
    """Between two arcs that meet at the horns, the inner one's centre to the right."""
    outer = _ellipse(0.5, 0.5, 0.5, start=52, end=308)
    horn = outer[0]
    centre = 0.74
    radius = math.hypot(horn[0] - centre, horn[1] - 0.5)
    angle = math.degrees(math.atan2(horn[1] - 0.5, horn[0] - centre))
    return np.concatenate([outer, _ellipse(centre, 0.5, radius, start=360 - angle, end=angle)])


def _petals() -> tuple[Patch, ...]:
    a = np.arange(6) * math.pi / 3
    return tuple(Patch(_ellipse(0.5 + 0.3 * math.sin(t), 0.5 - 0.3 * math.cos(t), 0.2)) for t in a)


_LEAF, _STEM, _GLASS, _YOLK, _PALE = (60, 150, 60), (92, 60, 30), (205, 232, 250), (252, 222, 90), (250, 250, 250)

_APPLE = np.concatenate([
    _ellipse(0.34, 0.55, 0.34, 0.31, 180, 300), _ellipse(0.66, 0.55, 0.34, 0.31, 240, 360),
    _ellipse(0.66, 0.62, 0.34, 0.38, 0, 105), _ellipse(0.34, 0.62, 0.34, 0.38, 75, 180),
])  # fmt: skip

_SHAPES: Mapping[str, Shape] = {
    "circle": Shape((Patch(_ellipse(0.5, 0.5, 0.5)),), (0.17, 0.17, 0.83, 0.83)),
    "square": Shape((Patch(_polygon((0, 0), (1, 0), (1, 1), (0, 1))),), (0.1, 0.1, 0.9, 0.9)),
    "triangle": Shape((Patch(_polygon((0.5, 0), (1, 0.88), (0, 0.88))),), (0.27, 0.46, 0.73, 0.94)),
    "diamond": Shape((Patch(_polygon((0.5, 0), (0.84, 0.5), (0.5, 1), (0.16, 0.5))),)),
    "star": Shape((Patch(_star(5, 0.42)),)),
    "heart": Shape((Patch(_heart()),), (0.24, 0.16, 0.76, 0.64)),
    "ring": Shape((Patch(_ellipse(0.5, 0.5, 0.5)), Patch(_ellipse(0.5, 0.5, 0.31), cut=True)), (0.28, 0.28, 0.72, 0.72)),
    "cross": Shape((Patch(_polygon(
        (0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67), (0.67, 1), (0.33, 1), (0.33, 0.67), (0, 0.67),
        (0, 0.33), (0.33, 0.33),
    )),)),
    "arrow": Shape((Patch(_polygon((0, 0.3), (0.5, 0.3), (0.5, 0.08), (1, 0.5), (0.5, 0.92), (0.5, 0.7), (0, 0.7))),)),
    "moon": Shape((Patch(_crescent()),)),
    "tree": Shape((
        Patch(_polygon((0.4, 0.74), (0.6, 0.74), (0.6, 1), (0.4, 1)), ink=_STEM),
        Patch(_polygon((0.5, 0.26), (0.92, 0.8), (0.08, 0.8))), Patch(_polygon((0.5, 0), (0.82, 0.46), (0.18, 0.46))),
    )),
    "house": Shape((
        Patch(_polygon((0.12, 0.42), (0.88, 0.42), (0.88, 1), (0.12, 1))), Patch(_polygon((0.5, 0), (1, 0.46), (0, 0.46)), 0.6),
        Patch(_polygon((0.4, 0.64), (0.62, 0.64), (0.62, 1), (0.4, 1)), ink=_PALE, outlined=False),
    )),
    "fish": Shape((
        Patch(_polygon((0.72, 0.36), (1, 0.08), (1, 0.64)), 0.8), Patch(_ellipse(0.4, 0.36, 0.4, 0.29)),
        Patch(_ellipse(0.2, 0.28, 0.065), ink=_PALE, outlined=False), Patch(_ellipse(0.2, 0.28, 0.032), 0.2, outlined=False),
    )),
    "cup": Shape((
        Patch(_ellipse(0.72, 0.48, 0.28)), Patch(_ellipse(0.72, 0.48, 0.14), cut=True),
        Patch(_polygon((0.02, 0.1), (0.78, 0.1), (0.68, 0.92), (0.12, 0.92))),
        Patch(_ellipse(0.4, 0.1, 0.38, 0.1), 0.6),
    )),
    "apple": Shape((
        Patch(_polygon((0.47, 0.06), (0.54, 0.04), (0.54, 0.4), (0.48, 0.4)), ink=_STEM, outlined=False),
        Patch(np.concatenate([_ellipse(0.7, 0.24, 0.18, 0.16, 180, 270), _ellipse(0.7, 0.08, 0.18, 0.16, 0, 90)]), ink=_LEAF),
        Patch(_APPLE),
    )),
    "flower": Shape((*_petals(), Patch(_ellipse(0.5, 0.5, 0.17), ink=_YOLK))),
}  # fmt: skip
assert tuple(_SHAPES) == SHAPES

TIGHT: Mapping[str, Shape] = {name: shape.tight() for name, shape in _SHAPES.items()}


@dataclass(frozen=True)
class Shapes(Sprites):
    """The things of this file, in ten colours, outlined in a darker shade."""

    vocabulary: Vocabulary = DRAWN

    def aspect(self, name: str) -> float:
        width, height = TIGHT[name].extent
        return width / height

    def room(self, name: str) -> Box | None:
        return TIGHT[name].room

    def draw(self, name: str, colour: str, width: int, height: int, line: int) -> Image.Image:
        return _drawn(name, colour, width, height, line)


@lru_cache(maxsize=2048)
def _drawn(name: str, colour: str, width: int, height: int, line: int) -> Image.Image:
    shape, main = TIGHT[name], COLOURS[colour]
    scale = np.array([width - 1, height - 1]) / np.array(shape.extent)
    sheet = Image.new("RGBA", (width, height), (*_shaded(main, 0.5), 0))
    pen = ImageDraw.Draw(sheet)
    for p in shape.patches:
        corners = [tuple(xy) for xy in (p.points * scale).tolist()]
        if p.cut:
            pen.polygon(corners, fill=(0, 0, 0, 0), outline=(*_shaded(main, 0.5), 255), width=line)
            continue
        fill = p.ink or _shaded(main, p.shade)
        edge = _shaded(fill, 0.5) if p.outlined else fill
        pen.polygon(corners, fill=(*fill, 255), outline=(*edge, 255), width=line)
    return sheet


def _shaded(colour: tuple[int, int, int], shade: float) -> tuple[int, int, int]:
    r, g, b = (round(c * shade) for c in colour)
    return r, g, b

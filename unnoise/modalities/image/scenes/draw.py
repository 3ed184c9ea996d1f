"""A scene as pixels: painted from back to front at several times the size, then averaged down, so that edges are smooth."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.vocabulary import BACKDROPS
from unnoise.modalities.image.scenes.world import Backdrop, Box, Scene, Sign

FINER = 4
"""Pixels painted for each pixel that stays, along each side."""
BOARDS: Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "white": ((255, 255, 255), (20, 20, 24)), "yellow": ((255, 236, 130), (40, 30, 0)), "navy": ((24, 40, 110), (255, 255, 255)),
    "wood": ((232, 200, 150), (70, 40, 14)),
}  # fmt: skip
"""Signs: the board's colour and the ink's."""
MARGIN = 0.025
"""From a sign's edge to its word, in sides of the picture."""


def render(scene: Scene, sprites: Sprites, size: int) -> np.ndarray:
    """uint8 (size, size, 3)."""
    side = size * FINER
    line = stroke(side)
    canvas = _backdrop(scene.backdrop, side)
    for thing in sorted(scene.objects, key=lambda t: -t.depth):
        x0, y0, x1, y1 = pixels(thing.box, side)
        sprite = sprites.draw(thing.name, thing.colour, x1 - x0, y1 - y0, line)
        canvas.paste(sprite, (x0, y0), sprite)
    for sign in scene.signs:
        draw_sign(canvas, sign, side, line)
    return np.asarray(canvas.reduce(FINER))


def stroke(side: int) -> int:
    """Width of outlines in a picture of `side` pixels."""
    return max(1, round(side * 0.012))


def pixels(box: Box, side: int) -> tuple[int, int, int, int]:
    """A box in pixels of a picture of `side`; never empty."""
    x0, y0, x1, y1 = (round(v * side) for v in box)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def visible(scene: Scene, sprites: Sprites, side: int = 128) -> list[float]:
    """For each object the share of its pixels that nothing nearer covers, counted on a picture of `side`."""
    painted = np.full((side, side), -1)  # whose pixel each is
    areas = np.zeros(len(scene.objects))
    for i in sorted(range(len(scene.objects)), key=lambda i: -scene.objects[i].depth):
        thing = scene.objects[i]
        x0, y0, x1, y1 = pixels(thing.box, side)
        mask = sprites.mask(thing.name, x1 - x0, y1 - y0)
        areas[i] = mask.sum()
        painted[y0:y1, x0:x1][mask[: side - y0, : side - x0]] = i
    for sign in scene.signs:
        x0, y0, x1, y1 = pixels(sign.box, side)
        painted[y0:y1, x0:x1] = -1
    return [float((painted == i).sum() / areas[i]) for i in range(len(areas))]


def _backdrop(backdrop: Backdrop, side: int) -> Image.Image:
    canvas = Image.new("RGB", (side, side), BACKDROPS[backdrop.colour])
    _STYLES[backdrop.style](canvas)
    return canvas


def _fading(canvas: Image.Image) -> None:
    """Darker by up to 12 % towards the bottom."""
    side = canvas.width
    veil = Image.fromarray(np.linspace(0, 0.12 * 255, side).astype(np.uint8)[:, None].repeat(side, 1))
    canvas.paste((0, 0, 0), (0, 0), veil)


def _ground(canvas: Image.Image) -> None:
    """The lower part a shade darker."""
    side = canvas.width
    canvas.paste((0, 0, 0), (0, round(side * 0.72)), Image.new("L", (side, side - round(side * 0.72)), round(0.09 * 255)))


_STYLES = {"plain": lambda canvas: None, "fading": _fading, "ground": _ground}
STYLES = tuple(_STYLES)


def draw_sign(canvas: Image.Image, sign: Sign, side: int, line: int) -> None:
    """Its board and its word, on a canvas of `side` pixels with outlines of `line`."""
    board, ink = BOARDS[sign.board]
    x0, y0, x1, y1 = pixels(sign.box, side)
    ImageDraw.Draw(canvas).rounded_rectangle((x0, y0, x1 - 1, y1 - 1), 2 * line, board, ink, line)
    margin = round(MARGIN * side)
    word = lettering(sign.word, x1 - x0 - 2 * margin, y1 - y0 - 2 * margin)
    canvas.paste(ink, ((x0 + x1 - word.width) // 2, (y0 + y1 - word.height) // 2), word)


def lettering(word: str, width: int, height: int) -> Image.Image:
    """A word of capitals in Pillow's bundled font as a grey mask, as high as given and no wider: longer words become narrower."""
    font = ImageFont.load_default(size=height * 1.4)
    left, top, right, bottom = (int(v) for v in font.getbbox(word, stroke_width=height / 30))
    text = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(text).text((-left, -top), word, 255, font, stroke_width=height / 30)
    return text.resize((min(width, round(text.width * height / text.height)), height), Image.Resampling.BOX)

"""How far a scene is from a picture, quickly, and which thing, added to a scene, brings it nearest.

With a a thing's coverage of a pixel (0 to 1), C its paint, and U, A, v what lies below it, above it, and what of it those above let
through, a scene's pixels are A + v (a C + (1 - a) U), and its error

    E = sum over pixels and channels |scene - picture|_,        |d|_ = max(|d| - SLIGHT, 0).

Where edges are sharp, a is 0 or 1 nearly everywhere, and E is linear in it. With a_k the coverage by paint k alone, at (0, 0), and
e_k(p) = |A + v C_k - picture|_, e_0(p) = |A + v U - picture|_ of each pixel p, a thing at (x, y) then costs

    E(x, y) = E_0 + sum_k sum_p a_k(p - (x, y)) (e_k(p) - e_0(p)),

a correlation for each paint (Lewis 1995, "Fast normalized cross-correlation", of a cost in place of a product), so that every place
is tried at once by Fourier transform, for each name and side. What is best at whole pixels is then moved by quarters of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from unnoise.modalities.image.scenes.draw import FINER, pixels, stroke
from unnoise.modalities.image.scenes.sprites import Sprites, fitted
from unnoise.modalities.image.scenes.world import SIZES, Sign, Thing, size_of

SLIGHT = 16.0
"""Levels that a channel may be off and yet be right: noise and colours of a generator, which say nothing of what is drawn."""
_TRIED = 4
"""Names whose best places are looked at closely."""
_REACH = 5
"""Pixels that a thing may grow or be moved to each side."""


@dataclass(frozen=True)
class Piece:
    """A thing as it is painted: its box in fine pixels, FINER for each pixel of the picture along each side."""

    name: str
    colour: str
    x: int
    y: int
    wide: int
    high: int

    def thing(self, side: int) -> Thing:
        """In a picture of `side` pixels."""
        fine = side * FINER
        box = (self.x / fine, self.y / fine, (self.x + self.wide) / fine, (self.y + self.high) / fine)
        return Thing(self.name, self.colour, size_of(box), box)


def piece(thing: Thing, side: int) -> Piece:
    """The nearest piece that lies in a picture of `side` pixels."""
    x0, y0, x1, y1 = (min(v, side * FINER - 1 + edge) for v, edge in zip(pixels(thing.box, side * FINER), (0, 0, 1, 1)))
    return Piece(thing.name, thing.colour, x0, y0, x1 - x0, y1 - y0)


@dataclass(frozen=True)
class Match:
    """A piece, and the scene's error with it."""

    error: float
    piece: Piece


Place = tuple[slice, ...]
"""Rows and columns."""


class Canvas:
    """A picture to be explained by pieces, listed from front to back.

    picture: (side, side, 3), 0 to 255. Its backdrop is read off the left and the right edge, row by row, where no scene has
    anything else; what lies under signs does not count.
    """

    def __init__(self, picture: np.ndarray, sprites: Sprites, signs: Sequence[Sign] = ()) -> None:
        self.sprites, self.side, self.picture = sprites, len(picture), picture.astype(np.float32)
        self.empty = np.broadcast_to(self.picture[:, [0, -1]].mean(1, keepdims=True), self.picture.shape)
        self.counts = np.ones((self.side, self.side, 1), np.float32)
        for sign in signs:
            x0, y0, x1, y1 = pixels(sign.box, self.side)
            self.counts[y0:y1, x0:x1] = 0

    def painted(self, pieces: Sequence[Piece]) -> np.ndarray:
        """(side, side, 3): the scene's pixels, as `render` would paint them, to a rounding where edges cross."""
        canvas = self.empty.copy()
        for p in reversed(pieces):
            _lay(canvas, *self._layer(p))
        return canvas

    def error(self, pieces: Sequence[Piece]) -> float:
        return float(self.left(pieces).sum())

    def left(self, pieces: Sequence[Piece]) -> np.ndarray:
        """(side, side): what a scene leaves unexplained of each pixel, summed over channels."""
        return self._gap((), pieces).left

    def seen(self, front: Sequence[Piece], p: Piece) -> float:
        """The share of a piece's pixels that those before it leave to be seen."""
        layer, place = self._layer(p)
        covers = layer[..., 3]
        return float((covers * self._gap(front, ()).through[place][..., 0]).sum() / max(covers.sum(), 1e-6))

    def best_between(self, front: Sequence[Piece], back: Sequence[Piece], colours: Sequence[str]) -> Piece:
        """Of all things, of every name, size and place and of these colours, the best one behind `front` and before `back`."""
        gap = self._gap(front, back)

        @cache
        def wave(paint: tuple[int, int, int]) -> Tensor:
            return torch.fft.rfft2(torch.from_numpy(gap.each(np.array(paint, np.float32)) - gap.left))

        rough = sorted((t.best(c, wave) for c in colours for t in templates(self.sprites, self.side)), key=lambda m: m.error)
        return min((self._descent(gap, m.piece, 2) for m in rough[:_TRIED]), key=lambda m: m.error).piece

    def nudged(self, pieces: tuple[Piece, ...], i: int) -> tuple[Piece, ...]:
        """With pieces[i] where it fits best nearby, under its own name."""
        front, back = pieces[:i], pieces[i + 1 :]
        return (*front, self._descent(self._gap(front, back), pieces[i], 8).piece, *back)

    def promising(self, pieces: Sequence[Piece], most: int) -> list[str]:
        """The colours that would explain the most of what pieces leave."""
        gap, plain = self._gap((), pieces), templates(self.sprites, self.side)[0]

        def gain(colour: str) -> float:
            return float(np.maximum(gap.left - gap.each(np.array(plain.paints(colour)[0], np.float32)), 0).sum())

        return sorted(self.sprites.vocabulary.colours, key=gain, reverse=True)[:most]

    def _gap(self, front: Sequence[Piece], back: Sequence[Piece]) -> "_Gap":
        above, through = np.zeros_like(self.picture), np.ones((self.side, self.side, 1), np.float32)
        for p in reversed(front):
            layer, place = self._layer(p)
            _lay(above, layer, place)
            through[place] *= 1 - layer[..., 3:]
        return _Gap(self.picture, self.counts, self.painted(back), above, through)

    def _layer(self, p: Piece) -> tuple[np.ndarray, Place]:
        """What it paints, (h, w, 4), and on which pixels."""
        line = stroke(self.side * FINER)
        layer = _painted(self.sprites, p.name, p.colour, p.wide, p.high, p.x % FINER, p.y % FINER, line)
        x, y = p.x // FINER, p.y // FINER
        return layer, (slice(y, y + layer.shape[0]), slice(x, x + layer.shape[1]))

    def _descent(self, gap: "_Gap", start: Piece, step: int) -> Match:
        """Over place and side, by `step` fine pixels, then by half as many, down to one; then of each edge alone."""
        _, place = self._layer(start)
        window = tuple(slice(max(0, s.start - _REACH), min(self.side, s.stop + _REACH)) for s in place)
        near, aspect = gap.near(window), self.sprites.aspect(start.name)
        up, left = (s.start * FINER for s in window)
        high, wide = (s.stop * FINER - s.start * FINER for s in window)
        elsewhere = float(gap.left.sum() - near.left.sum())
        best = Match(np.inf, start)

        def better(p: Piece) -> bool:
            """p: within the window."""
            nonlocal best
            if min(p.x, p.y) < 0 or p.x + p.wide > wide or p.y + p.high > high or min(p.wide, p.high) < FINER:
                return False
            error = near.error(*self._layer(p))
            if error >= best.error:
                return False
            best = Match(error, p)
            return True

        def on(ways: Sequence[tuple[int, int, int]], step: int) -> bool:
            """Whether any of them is better, each from where the ones before it led."""
            return sum(better(_moved(best.piece, aspect, step * dx, step * dy, step * by)) for dx, dy, by in ways) > 0

        better(replace(start, x=start.x - left, y=start.y - up))
        while step:
            while on(_WAYS, step) or on(_CORNERWISE, step):
                pass
            step //= 2
        for edge in range(4):
            for by in (-1, 1):
                better(_stretched(best.piece, *(by * (edge == k) for k in range(4))))
        return Match(best.error + elsewhere, replace(best.piece, x=best.piece.x + left, y=best.piece.y + up))


def _lay(canvas: np.ndarray, layer: np.ndarray, place: Place) -> None:
    canvas[place] = canvas[place] * (1 - layer[..., 3:]) + layer[..., :3]


@dataclass(frozen=True)
class _Gap:
    """Between what lies behind and what lies before: U, A and v, and the error of each pixel while nothing stands there."""

    picture: np.ndarray
    counts: np.ndarray
    below: np.ndarray
    above: np.ndarray
    through: np.ndarray

    @cached_property
    def left(self) -> np.ndarray:
        return self.each(self.below)

    def each(self, between: np.ndarray) -> np.ndarray:
        """The error of each pixel with a canvas or a colour there, (h, w)."""
        off = np.abs(self.above + self.through * between - self.picture) - SLIGHT
        return np.asarray((np.maximum(off, 0) * self.counts).sum(2))

    def error(self, layer: np.ndarray, place: Place) -> float:
        canvas = self.below.copy()
        _lay(canvas, layer, place)
        return float(self.each(canvas).sum())

    def near(self, window: Place) -> "_Gap":
        return _Gap(*(part[window] for part in (self.picture, self.counts, self.below, self.above, self.through)))


_WAYS = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
"""To the right, down, larger."""
_CORNERWISE = tuple((dx, dy, by) for by in (-1, 1) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy)
"""Another size, with a corner or the middle of an edge left in place: slopes hold what moves one way at a time."""


def _moved(p: Piece, aspect: float, dx: int, dy: int, larger: int) -> Piece:
    """Its middle stays where only its size changes."""
    wide, high = (round(v) for v in fitted(aspect, max(p.wide, p.high) + 2 * larger)) if larger else (p.wide, p.high)
    return replace(p, x=p.x + dx - (wide - p.wide) // 2, y=p.y + dy - (high - p.high) // 2, wide=wide, high=high)


def _stretched(p: Piece, left: int, up: int, right: int, down: int) -> Piece:
    """With each edge of its box moved by so much."""
    return replace(p, x=p.x + left, y=p.y + up, wide=p.wide - left + right, high=p.high - up + down)


@lru_cache(maxsize=8192)
def _painted(sprites: Sprites, name: str, colour: str, wide: int, high: int, dx: int, dy: int, line: int) -> np.ndarray:
    """float32 (h, w, 4): in whole pixels, begun dx, dy fine ones into the first; colours 0 to 255, times the coverage, 0 to 1."""
    drawn = sprites.draw(name, colour, wide, high, line).convert("RGBa")
    right, lower = -(-(dx + wide) // FINER) * FINER - dx, -(-(dy + high) // FINER) * FINER - dy
    return np.asarray(drawn.crop((-dx, -dy, right, lower)).reduce(FINER)) / np.array([1, 1, 1, 255], np.float32)


# -- every thing that there is ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Template:
    """A thing at every side that a world has, as coverage by each of its K paints, those of more pixels first.

    boxes: (wide, high) at each of S sides, in fine pixels. spots: of each paint a pixel (row, column) of the last drawing that has
    it. spectra: (S, K, side, side // 2 + 1), the conjugate transforms of the coverage. beyond: (S, side, side), infinite where it
    would not lie in the picture.
    """

    sprites: Sprites
    name: str
    boxes: tuple[tuple[int, int], ...]
    spots: tuple[tuple[int, int], ...]
    spectra: Tensor
    beyond: Tensor

    def paints(self, colour: str) -> list[tuple[int, int, int]]:
        """Of the thing in a colour."""
        drawn = self.sprites.draw(self.name, colour, *self.boxes[-1], stroke(self.beyond.shape[-1] * FINER))
        return [(int(r), int(g), int(b)) for r, g, b, _ in (np.asarray(drawn)[spot] for spot in self.spots)]

    def best(self, colour: str, wave: Callable[[tuple[int, int, int]], Tensor]) -> Match:
        """Where and how large it costs the least; wave(paint): the transform of what covering each pixel by it costs."""
        waves = torch.stack([wave(paint) for paint in self.paints(colour)])
        total = torch.fft.irfft2((self.spectra * waves).sum(1), s=self.beyond.shape[1:]) + self.beyond
        value, at = total.flatten().min(0)
        s, y, x = (int(v) for v in np.unravel_index(int(at), total.shape))
        return Match(float(value), Piece(self.name, colour, x * FINER, y * FINER, *self.boxes[s]))


@lru_cache(maxsize=4)
def templates(sprites: Sprites, side: int) -> tuple[Template, ...]:
    """Of every name, for pictures of `side` pixels; half a second for sixteen names."""
    sides = [s for low, high in SIZES.values() for s in range(int(low * side), int(high * side) + 2)]
    return tuple(_template(sprites, name, sides, side) for name in sprites.vocabulary.names)


def _template(sprites: Sprites, name: str, sides: Sequence[int], side: int) -> Template:
    boxes = [(round(wide * FINER), round(high * FINER)) for wide, high in (fitted(sprites.aspect(name), s) for s in sides)]
    drawn = [
        np.asarray(sprites.draw(name, sprites.vocabulary.colours[0], w, h, stroke(side * FINER))).astype(np.int64) for w, h in boxes
    ]
    paints = [np.where(d[..., 3] > 127, d[..., 0] << 16 | d[..., 1] << 8 | d[..., 2], -1) for d in drawn]
    kinds, first, many = np.unique(paints[-1], return_index=True, return_counts=True)
    order = [k for k in np.argsort(-many) if kinds[k] >= 0]
    coverage = torch.zeros(len(sides), len(order), side * FINER, side * FINER)
    beyond = torch.full((len(sides), side, side), torch.inf)
    for s, (paint, (wide, high)) in enumerate(zip(paints, boxes)):
        for k, kind in enumerate(order):
            coverage[s, k, :high, :wide] = torch.from_numpy(paint == kinds[kind])
        beyond[s, : side + 1 - -(-high // FINER), : side + 1 - -(-wide // FINER)] = 0
    spots = tuple((int(first[k]) // boxes[-1][0], int(first[k]) % boxes[-1][0]) for k in order)
    return Template(sprites, name, tuple(boxes), spots, torch.fft.rfft2(avg_pool2d(coverage, FINER)).conj().resolve_conj(), beyond)

"""Scenes that are what a request says: sizes, colours and places drawn at random, and everything seen.

Nothing touches anything, unless it was asked to: boxes keep GAP apart. Where one thing lies behind another, LEAST_HIDDEN to
MOST_HIDDEN of its pixels are covered; where it lies inside another, it does so in the part that holds things, and hides no more
of it unless its size was asked for. Letters of signs are never narrower than PITCH[0], signs never lower than HEIGHT[0]. What
cannot be laid out so is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.draw import BOARDS, MARGIN, STYLES, visible
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.sprites import Sprites, fitted
from unnoise.modalities.image.scenes.world import (
    OVERLAPPING,
    SIZES,
    Backdrop,
    Box,
    Group,
    Relation,
    Request,
    Saying,
    Scene,
    Sign,
    Thing,
    contains,
    overlap,
)  # fmt: skip

T = TypeVar("T")

EDGE, GAP = 0.02, 0.02
"""Of the picture's side: what stays free at its edge, and between boxes."""
PITCH = (0.085, 0.14)
"""Width of a sign for each letter."""
HEIGHT = (0.19, 0.28)
"""Height of a sign."""
MIDDLES = 0.13
"""How far the middles of two things are apart at least, along x or y, where one lies behind the other."""
LEAST_HIDDEN, MOST_HIDDEN = 0.15, 0.4
"""Share of a thing's pixels that the thing before it covers."""
_TRIES = 40


@dataclass(frozen=True)
class _Item:
    """Something to be placed: the number of its part in the request, the sides of its box, and a thing's size."""

    part: int
    wide: float
    high: float
    size: str = ""


def place(request: Request, rng: np.random.Generator, sprites: Sprites, split: Split = Split()) -> Scene:
    """A scene of which `holds(scene, request)`. Colours that the request leaves open are some that `split` trains on.

    Raises InputError for names that are not of the sprites' vocabulary, for what cannot hold anything, and for more than there
    is room for.
    """
    for group in request.groups:
        if group.name not in sprites.vocabulary.names:
            raise InputError(f"{group.name!r} is no thing of this world; it has {', '.join(sprites.vocabulary.names[:12])} ...")
    backdrop = Backdrop(request.backdrop or _any(rng, sprites.vocabulary.backdrops), _any(rng, STYLES))
    for i in range(_TRIES):
        bold = 1 - i / (_TRIES - 1)  # from as large as it likes to as small as it may
        laid = _WAYS[request.relation](request, rng, sprites, bold)
        if laid is not None:
            return laid.scene(request, backdrop, rng, sprites, split)
    raise InputError("there is no room for all that is asked of one scene; ask for fewer or smaller things")


def has_room(request: Request, sprites: Sprites) -> bool:
    """Whether `place` is sure to lay it out, everything as small as it may be. InputError as in `place`."""
    if request.relation in OVERLAPPING:
        first, second = request.groups
        if request.relation is not Relation.INSIDE:
            return True
        room, largest = sprites.room(second.name), _item(1, second, second.size or "large", 1.0, sprites)
        inner = _item(0, first, first.size or "small", 0.0, sprites)
        return (
            room is not None
            and inner.wide <= (room[2] - room[0]) * largest.wide
            and inner.high <= (room[3] - room[1]) * largest.high
        )
    items = _items(request, np.random.default_rng(0), sprites, 0.0)
    if request.relation is not None:
        return _cut(items, request.relation, np.random.default_rng(0)) is not None
    if request.words:
        return len(request.parts) == 1 or all(_cut(items, r, np.random.default_rng(0)) is not None for r in _LINES)
    wide, high = max(i.wide for i in items), max(i.high for i in items)
    return _fit(1 - 2 * EDGE, wide) * _fit(1 - 2 * EDGE, high) >= len(items)


def _any(rng: np.random.Generator, values: Sequence[T]) -> T:
    return values[int(rng.integers(len(values)))]


def _items(request: Request, rng: np.random.Generator, sprites: Sprites, bold: float) -> list[_Item]:
    """What is to be placed, in the order of the parts; sizes left open are large only where little is asked for."""
    many = sum(g.count for g in request.groups) + 2 * len(request.words)
    sizes = [s for s, most in (("small", 99), ("medium", 5 * bold), ("large", 2 * bold)) if many <= most]
    items = []
    for i, part in enumerate(request.parts):
        if isinstance(part, Saying):
            larger = 1.0 if len(request.parts) > 1 else 1 + 0.6 * bold
            pitch = min(larger * _between(PITCH, bold * float(rng.random())), (1 - 2 * EDGE - 2 * MARGIN) / len(part.word))
            high = larger * _between(HEIGHT, bold * float(rng.random()))
            items.append(_Item(i, max(2 * MARGIN + pitch * len(part.word), HEIGHT[0]), high))
        else:
            size = part.size or _any(rng, sizes)
            items += [_item(i, part, size, bold * float(rng.random()), sprites) for _ in range(part.count)]
    return items


def _item(part: int, group: Group, size: str, large: float, sprites: Sprites) -> _Item:
    """large: from the smallest (0) to the largest (1) of its size."""
    return _Item(part, *fitted(sprites.aspect(group.name), _between(SIZES[size], large)), size)


def _between(span: tuple[float, float], u: float) -> float:
    return span[0] + (span[1] - span[0]) * u


# -- apart -----------------------------------------------------------------------------------------------------------------

_LINES: Mapping[Relation, tuple[int, bool]] = {
    Relation.LEFT_OF: (0, False), Relation.RIGHT_OF: (0, True), Relation.ABOVE: (1, False), Relation.BELOW: (1, True),
}  # fmt: skip
"""The axis that parts are ordered along, and whether the second comes first on it."""
_ALL: Box = (EDGE, EDGE, 1 - EDGE, 1 - EDGE)


def _apart(request: Request, rng: np.random.Generator, sprites: Sprites, bold: float) -> "_Laid | None":
    items = _items(request, rng, sprites, bold)
    relation = request.relation
    if relation is None:
        boxes = _scattered(items, [_ALL] * len(items), rng) or (None if request.words else _in_rows(items, _ALL, rng))
        if boxes is not None or len(request.parts) != 2:
            return None if boxes is None else _Laid(items, boxes, [0.0] * len(items))
        relation = _any(rng, list(_LINES))  # a tidy order helps where things do not fit anyhow
    regions = _cut(items, relation, rng)
    if regions is None:
        return None
    laid = _scattered(items, [regions[i.part] for i in items], rng)
    if laid is None:
        sides = [_in_rows([i for i in items if i.part == part], regions[part], rng) for part in (0, 1)]
        laid = None if sides[0] is None or sides[1] is None else [*sides[0], *sides[1]]
    return None if laid is None else _Laid(items, laid, [0.0] * len(items))


def _cut(items: Sequence[_Item], relation: Relation, rng: np.random.Generator) -> list[Box] | None:
    """The regions of the first and the second part: two sides of a random cut, with room for both; None where there is not."""
    axis, swapped = _LINES[relation]
    needs = [_depth([i for i in items if i.part == part], axis) for part in ((1, 0) if swapped else (0, 1))]
    spare = 1 - 2 * EDGE - GAP - sum(needs)
    if spare < 0:
        return None
    at = EDGE + needs[0] + spare * float(rng.random())
    spans = [(EDGE, at), (at + GAP, 1 - EDGE)]
    boxes: list[Box] = [(a, EDGE, b, 1 - EDGE) if axis == 0 else (EDGE, a, 1 - EDGE, b) for a, b in spans]
    return boxes[::-1] if swapped else boxes


def _depth(items: Sequence[_Item], axis: int) -> float:
    """How much of the axis these need, if they stand in lines across it."""
    along = max((i.wide, i.high)[axis] for i in items)
    across = max((i.high, i.wide)[axis] for i in items)
    a_line = max(1, _fit(1 - 2 * EDGE, across))
    return -(-len(items) // a_line) * (along + GAP) - GAP


def _fit(room: float, side: float) -> int:
    """How many of this side stand in a row, GAP apart."""
    return int((room + GAP) / (side + GAP) + 1e-9)


def _scattered(items: Sequence[_Item], regions: Sequence[Box], rng: np.random.Generator) -> list[Box] | None:
    """A free place for each in its region, found for the largest first; None where one finds none."""
    boxes: dict[int, Box] = {}
    for i in sorted(range(len(items)), key=lambda i: -items[i].wide * items[i].high):
        for u in rng.random((30, 2)).tolist():
            box = _within(regions[i], items[i], u)
            if contains(regions[i], box, 1e-9) and all(_clear(box, other) for other in boxes.values()):
                boxes[i] = box
                break
        else:
            return None
    return [boxes[i] for i in range(len(items))]


def _in_rows(items: Sequence[_Item], region: Box, rng: np.random.Generator) -> list[Box] | None:
    """A random cell of a grid for each, and a random place in it; None where the grid has too few."""
    x0, y0, x1, y1 = region
    across, down = _fit(x1 - x0, max(i.wide for i in items)), _fit(y1 - y0, max(i.high for i in items))
    if across * down < len(items):
        return None
    columns = int(rng.integers(-(-len(items) // down), across + 1))
    rows = int(rng.integers(-(-len(items) // columns), down + 1))
    wide, high = (x1 - x0 + GAP) / columns, (y1 - y0 + GAP) / rows
    boxes = []
    for item, at, u in zip(items, rng.permutation(columns * rows).tolist(), rng.random((len(items), 2)).tolist()):
        x, y = x0 + at % columns * wide, y0 + at // columns * high
        boxes.append(_within((x, y, x + wide - GAP, y + high - GAP), item, u))
    return boxes


def _within(region: Box, item: _Item, u: Sequence[float]) -> Box:
    """The item's box at the place u in [0, 1]^2 of all that it could have in a region."""
    x = region[0] + u[0] * (region[2] - region[0] - item.wide)
    y = region[1] + u[1] * (region[3] - region[1] - item.high)
    return (x, y, x + item.wide, y + item.high)


def _clear(a: Box, b: Box) -> bool:
    """Whether two boxes keep GAP apart, to rounding."""
    gap = GAP - 1e-9
    return a[2] + gap <= b[0] or b[2] + gap <= a[0] or a[3] + gap <= b[1] or b[3] + gap <= a[1]


# -- one over the other ----------------------------------------------------------------------------------------------------


def _inside(request: Request, rng: np.random.Generator, sprites: Sprites, bold: float) -> "_Laid | None":
    """The first in the room of the second."""
    inner, outer = request.groups
    room = sprites.room(outer.name)
    if room is None:
        raise InputError(f"nothing can be seen inside {outer.name!r}")
    container = _item(1, outer, outer.size or "large", 1 - bold * float(rng.random()), sprites)  # large, to hold more
    around = _within(_ALL, container, rng.random(2).tolist())
    x, y, wide, high = *around[:2], around[2] - around[0], around[3] - around[1]
    hollow = (x + room[0] * wide, y + room[1] * high, x + room[2] * wide, y + room[3] * high)
    laid = []
    for size in (inner.size,) if inner.size else ("small", "medium"):
        item = _item(0, inner, size, bold * float(rng.random()), sprites)
        box = _within(hollow, item, rng.random(2).tolist())
        both = _Laid([item, container], [box, around], [0.0, 1.0])
        if contains(hollow, box) and (inner.size or both.hidden(request, sprites) <= MOST_HIDDEN):
            laid.append(both)
    return _any(rng, laid) if laid else None


def _behind(request: Request, rng: np.random.Generator, sprites: Sprites, bold: float) -> "_Laid | None":
    """Two that overlap, shifted until enough of the deeper one is hidden and enough is seen."""
    items = []
    for i, group in enumerate(request.groups):
        size = group.size or _any(rng, ("medium", "large"))
        items.append(_item(i, group, size, bold * float(rng.random()), sprites))
    depths = [1.0, 0.0] if request.relation is Relation.BEHIND else [0.0, 1.0]
    for _ in range(_TRIES):
        boxes = [_within(_ALL, item, rng.random(2).tolist()) for item in items]
        a, b = boxes
        if not overlap(a, b) or contains(a, b) or contains(b, a) or _middles(a, b) < MIDDLES:
            continue
        both = _Laid(items, boxes, depths)
        if LEAST_HIDDEN <= both.hidden(request, sprites) <= MOST_HIDDEN:
            return both
    return None


def _middles(a: Box, b: Box) -> float:
    return max(abs(a[0] + a[2] - b[0] - b[2]), abs(a[1] + a[3] - b[1] - b[3])) / 2


_WAYS: Mapping[Relation | None, Callable[[Request, np.random.Generator, Sprites, float], "_Laid | None"]] = {
    **dict.fromkeys([None, *_LINES], _apart),
    Relation.INSIDE: _inside, Relation.BEHIND: _behind, Relation.IN_FRONT_OF: _behind,
}  # fmt: skip


@dataclass(frozen=True)
class _Laid:
    """Items with their boxes and depths."""

    items: Sequence[_Item]
    boxes: Sequence[Box]
    depths: Sequence[float]

    def hidden(self, request: Request, sprites: Sprites) -> float:
        """Of two groups of one thing: the share of the deeper one's pixels that the other covers."""
        pair = [Thing(g.name, "", item.size, b, d) for g, item, b, d in zip(request.groups, self.items, self.boxes, self.depths)]
        return 1 - min(visible(Scene(tuple(pair)), sprites))

    def scene(self, request: Request, backdrop: Backdrop, rng: np.random.Generator, sprites: Sprites, split: Split) -> Scene:
        """With colours for things and boards for signs."""
        things, signs = [], []
        palettes = _palettes(request, rng, sprites, split)
        for item, box, depth in zip(self.items, self.boxes, self.depths):
            part = request.parts[item.part]
            if isinstance(part, Saying):
                signs.append(Sign(part.word, box, _any(rng, list(BOARDS))))
            else:
                things.append(Thing(part.name, _any(rng, palettes[item.part]), item.size, box, depth))
        return Scene(tuple(things), tuple(signs), backdrop)


def _palettes(request: Request, rng: np.random.Generator, sprites: Sprites, split: Split) -> list[Sequence[str]]:
    """The colours that the things of each part may have: what was asked for, else one for all of them or all that are trained on.

    Where one thing lies over another, their colours differ, unless equal ones were asked for.
    """
    lie_over = request.relation in OVERLAPPING
    taken = {g.colour for g in request.groups}
    palettes: list[Sequence[str]] = []
    for part in request.parts:
        if isinstance(part, Saying) or not sprites.vocabulary.colours:
            palettes.append([""])
        elif part.colour is not None:
            palettes.append([part.colour])
        else:
            colours = [c for c in split.seen_colours(part.name, sprites.vocabulary.colours) if not (lie_over and c in taken)]
            palettes.append([_any(rng, colours)] if lie_over or rng.random() < 0.5 else colours)
            taken.update(palettes[-1])
    return palettes

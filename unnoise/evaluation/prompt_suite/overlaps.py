"""What lies over what: of things that touch, the names, boxes, depths and number with which a render comes nearest the picture.

A covered thing shows a part of its outline, which may be that of several shapes: a detector that looks at cells guesses, names it
twice or misses it. Analysis by synthesis settles it: over scenes S, the least of

    cost(S) = E(S) + PER_THING * number of things,        E: the error of a scene, see `synthesis`

by coordinate descent: each thing in turn becomes the best of all that there are, of every name, size and place, of its own colour
or the one that would explain the most, while the others stay; until none changes. From there, as long as one helps: a thing is left
out or brought to the front, or one is added behind or before all others. The search ends where nothing is left unexplained, and
things of one colour that one thing would explain are one.

One thing is before another where the other order, with all moved to where they fit best in it, leaves more unexplained, by TOLD at
least; where it does not, the picture cannot tell, and neither is before the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from unnoise.evaluation.prompt_suite.synthesis import Canvas, Piece, piece
from unnoise.modalities.image.scenes.draw import pixels
from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.world import Box, Sign, Thing, contains, overlap

PER_THING = 2000.0
"""What a thing must explain, in levels summed over channels and pixels: seven of them, each wrong by a hundred."""
TOLD, TOLD_SHARE = 300.0, 0.05
"""What the other order must leave unexplained beyond what the right one leaves: so much, and this share of what that leaves."""
CLEAR = 400.0
"""What the best explanation of a real render leaves: rounding, and edges that cross within a pixel."""
LEAST_SEEN = 0.0
"""Of each thing's pixels that much is seen at least: scenes show 60 %, and what explains a soft edge from beneath is no thing."""
CLEARLY = 0.95
"""Share of the error of what was found that another explanation may leave at most: a detector's word counts in blurred pictures."""
_WRONG, _PATCH = 50.0, 3
"""Something is missed in a thing that stands alone where every pixel of a patch, so many a side, is wrong by so much."""
_MOST = 4
"""Things that lie together, at most: more of them are left as they were found."""
_MOST_GROUPS = 3
"""Places of a picture that are searched, at most: scenes have one; what has more is no scene, and stays as it was found."""
_ROUNDS = 4
"""Times that each thing is settled, at most."""
_PROMISING = 2
"""Colours that are tried for a thing that is new."""
_ROUND_A_BOX = 4
"""Pixels about boxes that belong to what stands in them."""

Pieces = tuple[Piece, ...]


def explained(things: Sequence[Thing], picture: np.ndarray, sprites: Sprites, signs: Sequence[Sign] = ()) -> list[Thing]:
    """Things as they were found -> as they are. picture: (side, side, 3), 0 to 255. What lies under signs does not count.

    Things that touch no other and leave nothing unexplained stay as they were found. Depths: how many of those that a thing
    overlaps lie before it.
    """
    canvas = Canvas(picture, sprites, [s for s in signs if not any(_covers(t.box, s.box) for t in things)])
    things = sorted(things, key=lambda t: _area(t.box))  # for a start small ones lie before large ones
    pieces = tuple(piece(t, canvas.side) for t in things)
    for i in range(len(pieces)):
        pieces = canvas.nudged(pieces, i)
    left = canvas.left(pieces)
    wrong = -max_pool2d(-torch.from_numpy(left)[None], _PATCH, 1, _PATCH // 2)[0].numpy() > _WRONG  # the least of each patch
    boxes = [_about(t.box, canvas.side) for t in things]
    unsure = [g for g in _touching(things) if len(g) <= _MOST and (len(g) > 1 or bool(wrong[boxes[g[0]]].any()))]
    searched = unsure if len(unsure) <= _MOST_GROUPS else []
    out = [t for i, t in enumerate(things) if not any(i in group for group in searched)]
    for group in searched:
        elsewhere = [i for i in range(len(things)) if i not in group]
        enough = CLEAR + sum(float(left[boxes[i]].sum()) for i in elsewhere)
        search = _Search(canvas, tuple(pieces[i] for i in elsewhere), enough)
        out += search.seen(search.best(tuple(pieces[i] for i in group)).pieces)
    return out


def lie_over(a: Thing, b: Thing) -> bool:
    """Whether they overlap, and neither lies in the other."""
    return overlap(a.box, b.box) > 0 and not contains(a.box, b.box) and not contains(b.box, a.box)


def _about(box: Box, side: int) -> tuple[slice, slice]:
    """The pixels of a box and of what is near it."""
    x0, y0, x1, y1 = pixels(box, side)
    return slice(max(0, y0 - _ROUND_A_BOX), y1 + _ROUND_A_BOX), slice(max(0, x0 - _ROUND_A_BOX), x1 + _ROUND_A_BOX)


def _covers(a: Box, b: Box) -> bool:
    """Whether boxes coincide for the most part: signs stand apart, and one that is found on a thing is none."""
    return overlap(a, b) > min(_area(a), _area(b)) / 2


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _touching(things: Sequence[Thing]) -> list[list[int]]:
    """Groups of things whose boxes meet, directly or by way of others; each in order."""
    groups = [{i} for i in range(len(things))]
    for i, j in combinations(range(len(things)), 2):
        if overlap(things[i].box, things[j].box) > 0:
            a, b = (next(g for g in groups if k in g) for k in (i, j))
            if a is not b:
                groups = [g for g in groups if g is not a and g is not b] + [a | b]
    return [sorted(g) for g in sorted(groups, key=min)]


@dataclass(frozen=True)
class _Scene:
    """pieces: from front to back."""

    pieces: Pieces
    cost: float


@dataclass(frozen=True)
class _Search:
    """Of what stands together in one place. others: what stands elsewhere. enough: an error that leaves nothing to explain."""

    canvas: Canvas
    others: Pieces
    enough: float

    def best(self, start: Pieces) -> _Scene:
        """From the best order of what was found, by the moves of which one helps; what was found where that is hardly worse."""
        start = min(permutations(start), key=lambda order: self.scene(order).cost)
        best = self.settled(start)
        while not self.clear(best):
            lower = best
            for other in self.moves(best.pieces):
                lower = min(lower, other, key=lambda scene: scene.cost)
                if self.clear(lower):
                    break
            if lower is best:
                break
            best = lower
        best, found = (self.needed(self.fewer(scene)) for scene in (best, self.eased(start)))
        return best if self.clear(best) or self.error(best) < CLEARLY * self.error(found) else found

    def scene(self, pieces: Pieces) -> _Scene:
        """With its cost."""
        return _Scene(pieces, self.canvas.error((*pieces, *self.others)) + PER_THING * len(pieces))

    def error(self, scene: _Scene) -> float:
        return scene.cost - PER_THING * len(scene.pieces)

    def clear(self, scene: _Scene) -> bool:
        return self.error(scene) < self.enough

    def settled(self, start: Pieces) -> _Scene:
        """Each thing in turn becomes the best of all, until none changes."""
        best = self.scene(start)
        for _ in range(_ROUNDS):
            before = best.cost
            for i in range(len(start)):
                if self.clear(best):
                    return best
                best = min(best, self.anew(best.pieces, i), key=lambda scene: scene.cost)
            if best.cost > 0.97 * before:
                break
        return min(best, self.eased(best.pieces), key=lambda scene: scene.cost)

    def eased(self, pieces: Pieces) -> _Scene:
        """Each where it fits best nearby, under its own name."""
        for k in range(len(pieces)):
            pieces = self.canvas.nudged((*pieces, *self.others), k)[: len(pieces)]
        return self.scene(pieces)

    def fewer(self, scene: _Scene) -> _Scene:
        """Without things whose part another one of their colour takes on as well: what a ring rounds and leaves free of a disc
        looks like a larger ring about a smaller disc."""
        for i, one in enumerate(scene.pieces):
            others = scene.pieces[:i] + scene.pieces[i + 1 :]
            for j, other in enumerate(others):
                if one.colour == other.colour and (rest := self.anew(others, j)).cost < scene.cost:
                    return self.fewer(rest)
        return scene

    def needed(self, scene: _Scene) -> _Scene:
        """Without things that the others would explain, moved a little, or hide, or that leave more wrong than they put right."""
        for i in reversed(range(len(scene.pieces) if len(scene.pieces) > 1 else 0)):
            rest = self.eased(scene.pieces[:i] + scene.pieces[i + 1 :])
            box = _about(scene.pieces[i].thing(self.canvas.side).box, self.canvas.side)
            without, with_it = (float(self.canvas.left((*s.pieces, *self.others))[box].sum()) for s in (rest, scene))
            if rest.cost < scene.cost or without < 2 * with_it or self.canvas.seen(scene.pieces[:i], scene.pieces[i]) < LEAST_SEEN:
                return self.needed(rest)
        return scene

    def anew(self, pieces: Pieces, i: int) -> _Scene:
        """With the best thing there is in place of thing i, of its colour or of the one that would explain the most there."""
        front, back = pieces[:i], (*pieces[i + 1 :], *self.others)
        colours = {pieces[i].colour, *self.canvas.promising((*front, *back), 1)}
        return self.scene((*front, self.canvas.best_between(front, back, sorted(colours)), *pieces[i + 1 :]))

    def moves(self, pieces: Pieces) -> Iterator[_Scene]:
        """One thing less; another one in front; one more."""
        n = len(pieces)
        for i in range(n if n > 1 else 0):
            yield self.settled(pieces[:i] + pieces[i + 1 :])
        for i in range(1, n):
            yield self.settled((pieces[i], *pieces[:i], *pieces[i + 1 :]))
        if n < _MOST:
            colours = self.canvas.promising((*pieces, *self.others), _PROMISING)
            behind = self.scene((*pieces, self.canvas.best_between(pieces, self.others, colours)))
            before = self.scene((self.canvas.best_between((), (*pieces, *self.others), colours), *pieces))
            now = self.scene(pieces).cost
            yield from (self.settled(more.pieces) for more in (behind, before) if more.cost < now)

    def seen(self, pieces: Pieces) -> list[Thing]:
        """With their depths."""
        things = [p.thing(self.canvas.side) for p in pieces]
        return [
            replace(t, depth=float(sum(lie_over(t, things[j]) and self.told(pieces, j, i) for j in range(i))))
            for i, t in enumerate(things)
        ]

    def told(self, pieces: Pieces, j: int, i: int) -> bool:
        """Whether the picture tells that j lies before i."""
        swapped = (*pieces[:j], pieces[i], *pieces[j:i], *pieces[i + 1 :])
        error, other = (
            scene.cost - PER_THING * len(pieces) for scene in (self.scene(pieces), self.eased(self.eased(swapped).pieces))
        )
        return other >= (1 + TOLD_SHARE) * error + TOLD

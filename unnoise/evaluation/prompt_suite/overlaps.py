"""What lies over what: of things that overlap, the names, the depths and the number with which a render comes nearest the picture.

A covered thing shows a part of its outline, which may be that of several shapes: a detector that looks at cells guesses, and often
names it twice. Analysis by synthesis settles it. Over scenes S of the found boxes and colours, the least of

    |render(S) - picture|_1 + PER_THING * number of things

by descent, from what was found for sure, one choice at a time, as long as one is better: leave a thing out, bring it to the front,
colour it anew, move an edge of its box; and where none of these is: add one of those that were not sure, rename one, or take two
for one in a box around both, each with its edges moved as suits it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

from unnoise.modalities.image.scenes.draw import render
from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.world import Backdrop, Scene, Thing, contains, overlap

PER_THING = 5000.0
"""What a thing must explain, in levels summed over pixels of three channels: some fifteen pixels, wrong by a hundred each."""
_EDGES = (-0.06, -0.015, 0.015, 0.06)
"""How far an edge of a box is moved at once."""
_TRIED = 10
"""Of what is further away, so many are followed: those that are best to begin with."""
_MOST = 5
"""Things that lie together, at most; of more the likeliest are kept."""

Choices = Callable[[list[Thing]], list[list[Thing]]]


def explained(things: Sequence[Thing], certain: int, picture: np.ndarray, backdrop: Backdrop, sprites: Sprites) -> list[Thing]:
    """Things as they were found, the likeliest first, of which the first `certain` were found for sure; the others count only where
    they explain what those cannot. picture: (side, side, 3), 0 to 255. Depths: how many of those that a thing overlaps lie before
    it.
    """
    out: list[Thing] = []
    for group in _together(things):
        sure, unsure = ([things[i] for i in group if (i < certain) == known] for known in (True, False))
        out += _settled(sure[:_MOST], unsure[:_MOST], picture, backdrop, sprites) if sure and len(group) > 1 else sure
    return out


def lie_over(a: Thing, b: Thing) -> bool:
    """Whether they overlap, and neither lies in the other."""
    return overlap(a.box, b.box) > 0 and not contains(a.box, b.box) and not contains(b.box, a.box)


def _together(things: Sequence[Thing]) -> list[list[int]]:
    """Groups of things that lie over one another, directly or by way of others; each in order."""
    groups = [{i} for i in range(len(things))]
    for i, j in combinations(range(len(things)), 2):
        if lie_over(things[i], things[j]):
            a, b = (next(g for g in groups if k in g) for k in (i, j))
            if a is not b:
                groups = [g for g in groups if g is not a and g is not b] + [a | b]
    return [sorted(g) for g in sorted(groups, key=min)]


def _settled(sure: list[Thing], unsure: Sequence[Thing], picture: np.ndarray, backdrop: Backdrop, sprites: Sprites) -> list[Thing]:
    """sure: from front to back, in any first order."""
    x0, y0 = (max(0, int(min(t.box[k] for t in (*sure, *unsure)) * len(picture)) - 2) for k in (0, 1))
    x1, y1 = (int(max(t.box[k] for t in (*sure, *unsure)) * len(picture)) + 3 for k in (2, 3))

    def cost(things: Sequence[Thing]) -> float:
        scene = Scene(tuple(replace(t, depth=float(i)) for i, t in enumerate(things)), (), backdrop)
        made = render(scene, sprites, len(picture))[y0:y1, x0:x1]
        return float(np.abs(made - picture[y0:y1, x0:x1]).sum()) + PER_THING * len(things)

    def descent(things: list[Thing], choices: Choices, rounds: int = 20) -> tuple[float, list[Thing]]:
        best = cost(things), things
        for _ in range(rounds):
            lower = min(((cost(other), other) for other in choices(best[1])), key=lambda pair: pair[0], default=best)
            if lower[0] >= best[0]:
                break
            best = lower
        return best

    best = descent(sure, lambda things: _changes(things, sprites))
    while True:
        nearest = sorted(_leaps(best[1], unsure, sprites), key=lambda leap: cost(leap[1]))[:_TRIED]
        leaps = [descent(other, partial(_moved, i), 10) for i, other in nearest]
        lower = min(leaps, key=lambda pair: pair[0])
        if lower[0] >= best[0]:
            break
        best = descent(lower[1], lambda things: _changes(things, sprites))
    found = best[1]
    return [replace(t, depth=float(sum(lie_over(t, o) for o in found[:i]))) for i, t in enumerate(found)]


def _changes(things: list[Thing], sprites: Sprites) -> list[list[Thing]]:
    """Every scene that is one choice away, but for names."""
    out = []
    for i, thing in enumerate(things):
        rest = things[:i] + things[i + 1 :]
        if rest:
            out.append(rest)
        if i:
            out.append([thing, *rest])
        out += [_with(things, i, replace(thing, colour=c)) for c in sprites.vocabulary.colours if c != thing.colour]
        out += _moved(i, things)
    return out


def _leaps(things: list[Thing], unsure: Sequence[Thing], sprites: Sprites) -> list[tuple[int, list[Thing]]]:
    """Scenes that are further away, and which of their things is new."""
    names = sprites.vocabulary.names
    out = [(i, _with(things, i, replace(t, name=n))) for i, t in enumerate(things) for n in names if n != t.name]
    out += [(len(things), [*things, t]) for t in unsure if t not in things]
    for i, j in combinations(range(len(things)), 2):
        a, b = things[i].box, things[j].box
        around = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
        rest = things[:j] + things[j + 1 :]
        out += [(i, _with(rest, i, replace(things[k], name=n, box=around))) for k in (i, j) for n in names]
    return out


def _moved(i: int, things: list[Thing]) -> list[list[Thing]]:
    """Thing i with one edge of its box elsewhere."""
    box, out = things[i].box, []
    for edge in range(4):
        for by in _EDGES:
            x0, y0, x1, y1 = (v + by * (k == edge) for k, v in enumerate(box))
            if min(x0, y0) >= 0 and max(x1, y1) <= 1 and min(x1 - x0, y1 - y0) > 0.05:
                out.append(_with(things, i, replace(things[i], box=(x0, y0, x1, y1))))
    return out


def _with(things: list[Thing], i: int, thing: Thing) -> list[Thing]:
    return [*things[:i], thing, *things[i + 1 :]]

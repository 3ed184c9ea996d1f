"""The prompts: for each of five aspects lists by level, of combinations that worlds train on and of such that they never do.

    count     level n: "n X", n = 1 ... 10                      unseen: the count of that thing
    colour    level n: n differently coloured things            unseen: the colour of one of them
    relation  level: the relation, of one thing to another      unseen: the relation of these two
    size      level: the size, of one thing                     unseen: its colour
    spelling  level n: a sign with a word of n letters          unseen: the word

A prompt asks for one aspect alone, so that no score hides behind another: relations are of single things, counts without colour.
"""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from unnoise.core.errors import InputError
from unnoise.core.random import derive
from unnoise.modalities.image.scenes.grammar import at_random, caption
from unnoise.modalities.image.scenes.place import has_room
from unnoise.modalities.image.scenes.rows import World
from unnoise.modalities.image.scenes.world import MOST, SIZES, Group, Relation, Request, Saying

LETTERS_MOST = 8
_TRIES = 200  # draws for each prompt before a level is given up as having no such combination


@dataclass(frozen=True)
class Prompt:
    """text: what a model is asked. unseen: whether it asks for a combination that worlds do not train on."""

    aspect: str
    level: str
    unseen: bool
    text: str
    request: Request


@dataclass(frozen=True)
class _Aspect:
    """levels: in order. draw(world, level, random numbers): a request of that level, of whatever combination."""

    levels: tuple[str, ...]
    draw: Callable[[World, str, np.random.Generator], Request]


def _names(world: World, n: int, rng: np.random.Generator) -> list[str]:
    names = world.sprites.vocabulary.names
    return [names[i] for i in rng.permutation(len(names))[:n].tolist()]


def _count(world: World, level: str, rng: np.random.Generator) -> Request:
    return Request((Group(_names(world, 1, rng)[0], int(level)),))


def _colour(world: World, level: str, rng: np.random.Generator) -> Request:
    colours = world.sprites.vocabulary.colours
    if not colours:
        raise InputError("these sprites have colours of their own: there is no binding of colours to ask for")
    chosen = rng.permutation(len(colours))[: int(level)].tolist()
    return Request(tuple(Group(n, 1, colours[c]) for n, c in zip(_names(world, int(level), rng), chosen)))


def _relation(world: World, level: str, rng: np.random.Generator) -> Request:
    a, b = _names(world, 2, rng)
    while Relation(level) is Relation.INSIDE and world.sprites.room(b) is None:
        a, b = _names(world, 2, rng)
    return Request((Group(a), Group(b)), Relation(level))


def _size(world: World, level: str, rng: np.random.Generator) -> Request:
    colours = world.sprites.vocabulary.colours
    colour = colours[int(rng.integers(len(colours)))] if colours else None
    return Request((Group(_names(world, 1, rng)[0], 1, colour, level),))


def _spelling(world: World, level: str, rng: np.random.Generator) -> Request:
    return Request((Saying("".join(string.ascii_uppercase[i] for i in rng.integers(26, size=int(level)).tolist())),))


ASPECTS: Mapping[str, _Aspect] = {
    "count": _Aspect(tuple(str(n) for n in range(1, MOST + 1)), _count),
    "colour": _Aspect(("1", "2", "3"), _colour),
    "relation": _Aspect(tuple(r.value for r in Relation), _relation),
    "size": _Aspect(tuple(SIZES), _size),
    "spelling": _Aspect(tuple(str(n) for n in range(1, LETTERS_MOST + 1)), _spelling),
}


def prompts(world: World, aspect: str, each: int, unseen: bool, seed: int = 0) -> list[Prompt]:
    """`each` prompts for every level of an aspect; all of them ask for a held-out combination, or none does.

    Levels of which there is no such combination (one of a thing is always trained on) are left out. The wordings vary. Prompts may
    come twice where a level has few combinations.
    """
    found = []
    for level in ASPECTS[aspect].levels:
        rng = np.random.Generator(np.random.Philox(key=[derive(seed, f"{aspect}/{level}/{unseen}"), 0]))
        these: list[Prompt] = []
        for _ in range(_TRIES * each):
            if len(these) == each:
                break
            request = ASPECTS[aspect].draw(world, level, rng)
            if world.split.holds_out(request) == unseen and has_room(request, world.sprites):
                these.append(Prompt(aspect, level, unseen, caption(request, at_random(rng)), request))
        found += these if len(these) == each else []
    return found

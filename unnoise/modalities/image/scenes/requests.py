"""What scenes are about: requests drawn at random, each of one of seven kinds, with nothing in them that is held out."""

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.place import has_room
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.vocabulary import SIGN_WORDS
from unnoise.modalities.image.scenes.world import LONGEST, MOST, OVERLAPPING, Group, Relation, Request, Saying

_BY_LENGTH = {n: [w for w in SIGN_WORDS if len(w) == n] for n in range(1, LONGEST + 1)}


@dataclass(frozen=True)
class _Drawing:
    """What a request is drawn from."""

    rng: np.random.Generator
    sprites: Sprites
    split: Split

    def number(self, low: int, high: int) -> int:
        """low ... high, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def names(self, n: int) -> list[str]:
        """Different ones."""
        names = self.sprites.vocabulary.names
        chosen: list[int] = []
        while len(chosen) < n:
            i = self.number(0, len(names) - 1)
            chosen += [] if i in chosen else [i]
        return [names[i] for i in chosen]

    def group(self, name: str, most: int = MOST, sizes: bool = True) -> Group:
        vocabulary = self.sprites.vocabulary
        counts = [n for n in range(1, most + 1) if not self.split.held_count(name, n)]
        count = counts[self.number(0, len(counts) - 1)]
        colours = self.split.seen_colours(name, vocabulary.colours)
        colour = colours[self.number(0, len(colours) - 1)] if colours and self.chance(0.75) else None
        fits = [s for s, m in (("small", MOST), ("medium", 5), ("large", 2)) if count <= m]
        size = fits[self.number(0, len(fits) - 1)] if sizes and self.chance(0.3) else None
        return Group(name, count, colour, size)

    def saying(self, longest: int = LONGEST) -> Saying:
        """A word or letters in any order, short ones as often as long ones."""
        length = self.number(1, longest)
        known = _BY_LENGTH.get(length, ())
        if known and self.chance(0.5):
            return Saying(known[self.number(0, len(known) - 1)])
        return Saying("".join(string.ascii_uppercase[i] for i in self.rng.integers(26, size=length).tolist()))


_ORDERED = tuple(r for r in Relation if r not in OVERLAPPING)
_SIDEWAYS = 5  # letters beside which there is room for things


def _single(d: _Drawing) -> Request:
    return Request((d.group(d.names(1)[0]),))


def _two(d: _Drawing) -> Request:
    a, b = d.names(2)
    return Request((d.group(a, 5, sizes=False), d.group(b, 5, sizes=False)))


def _three(d: _Drawing) -> Request:
    return Request(tuple(d.group(n, 3, sizes=False) for n in d.names(3)))


def _ordered(d: _Drawing) -> Request:
    a, b = d.names(2)
    many = MOST if d.chance(0.3) else 2
    return Request((d.group(a, many), d.group(b, 4 if many == 2 else 1)), _ORDERED[d.number(0, len(_ORDERED) - 1)])


def _overlapping(d: _Drawing) -> Request:
    return _related(d, (Relation.INSIDE, Relation.BEHIND, Relation.IN_FRONT_OF)[d.number(0, 2)])


def _inside(d: _Drawing) -> Request:
    return _related(d, Relation.INSIDE)


def _related(d: _Drawing, relation: Relation) -> Request:
    """One thing to one other."""
    a, b = d.names(2)
    while relation is Relation.INSIDE and d.sprites.room(b) is None:
        a, b = d.names(2)
    first, second = d.group(a, 1, sizes=False), d.group(b, 1, sizes=False)
    return Request((first, replace(second, colour=None) if second.colour == first.colour else second), relation)


def _sign(d: _Drawing) -> Request:
    return Request((d.saying(),))


def _by_sign(d: _Drawing) -> Request:
    relation = _ORDERED[d.number(0, len(_ORDERED) - 1)] if d.chance(0.8) else None
    sideways = relation in (Relation.LEFT_OF, Relation.RIGHT_OF)
    group, saying = d.group(d.names(1)[0], 6, sizes=False), d.saying(_SIDEWAYS if sideways else LONGEST)
    return Request((group, saying) if d.chance(0.7) else (saying, group), relation)


Kinds = Mapping[Callable[[_Drawing], Request], float]
KINDS: Kinds = {
    _single: 0.27, _two: 0.2, _three: 0.06, _ordered: 0.17, _overlapping: 0.1, _sign: 0.1, _by_sign: 0.1,
}  # fmt: skip
"""The kinds of requests and how often each is drawn."""
SIGNS: Kinds = {_sign: 0.5, _by_sign: 0.5}
"""Signs, alone and beside things."""
LEARNT: Kinds = {**KINDS, _overlapping: 0.25, _inside: 0.25, _sign: 0.15}
"""More of what networks learn last: for training."""
TRICKY: Kinds = {**KINDS, _overlapping: 0.4, _inside: 0.4, _sign: 0.2}
"""More of what is hard to make out."""


def draw_request(rng: np.random.Generator, sprites: Sprites, split: Split = Split(), kinds: Kinds = KINDS) -> Request:
    """One that asks for nothing held out and for no more than there is room for. InputError for too few kinds of things."""
    d = _Drawing(rng, sprites, split)
    if len(sprites.vocabulary.names) < 3:
        raise InputError(f"a world needs at least 3 kinds of things; these sprites have {len(sprites.vocabulary.names)}")
    makers, up_to = list(kinds), np.cumsum(list(kinds.values()))
    contains = any(sprites.room(n) for n in sprites.vocabulary.names)
    while True:
        make = makers[int(np.searchsorted(up_to, rng.random() * up_to[-1], "right"))]
        if make in (_overlapping, _inside) and not contains:
            continue
        request = make(d)
        if not split.holds_out(request) and has_room(request, sprites):
            backdrop = sprites.vocabulary.backdrops[d.number(0, len(sprites.vocabulary.backdrops) - 1)] if d.chance(0.25) else None
            return Request(request.parts, request.relation, backdrop)

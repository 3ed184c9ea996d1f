"""From a prompt to a layout: by grammar where it is understood, else by a small model whose drawings are checked.

    1. The whole prompt parses: a scene that is what it says, placed at random (`scenes.place`). It is right by construction. Of
       PLACINGS of them that one is taken whose least thing is the largest: small things are what networks draw worst.
    2. It does not: what is understood of it (`fragments`: the longest pieces that parse) must hold in what the generator draws for
       the rest. Of DRAWS layouts, those that are sound and in which it holds, that one is taken whose least thing is the largest.
    3. None is, or there is no generator, or no rest that says something: what is understood is placed at random until it holds
       PLACINGS times, at most ANYWHERE times, and the same one taken.
Words for signs are those that the pieces say, or that the prompt has in quotes or in capitals. A number or a sign that cannot be
held is refused, even where the rest is understood; a warning tells of other
words that are not understood.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from itertools import chain, islice

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.grammar import LEADS, parse
from unnoise.modalities.image.scenes.place import GAP, PITCH, place
from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.modalities.image.scenes.vocabulary import NUMBERS
from unnoise.modalities.image.scenes.world import LONGEST, SIZES, Request, Saying, Scene, holds, overlap, relation_holds

DRAWS = 32
"""Layouts that the generator draws for one prompt."""
PLACINGS = 6
"""Layouts that are placed for what is understood, of which one is taken."""
ANYWHERE = 1000
"""Layouts that are placed without regard to relations, until those hold by chance: three left of two one time in 25."""
_NOT = ("no", "not", "without")
_BEYOND = re.compile(
    r"\d+(?:[.,]\d+)?|(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:-\w+)?|eleven|twelve|\w+teen|hundreds?|thousands?|millions?|dozens?",
    re.I,
)  # numbers in front of a piece make it another one: "thirty two apples", "a hundred and two apples"
_SAYING_NOTHING = frozenset(
    {"the", "and", "but", ",", "please", "kindly", "do", "paint", "draw", "make", "photo", "there", "is", "are"}
    | {word for lead in LEADS for word in lead.split()}
)
_SIGNED = re.compile(
    r"\bsigns?\s+(?:that\s+)?(?:says?|reads?|saying|reading|with\s+the\s+word)\s+(\"[^\"]*\"|[^\s,]+)"
    r"|\bthe\s+word\s+(\"[^\"]*\"|[^\s,]+)\s+on\s+(?:a|one)\s+sign\b", re.I,
)  # fmt: skip
_MOST_WORDS = 60  # of a prompt that is searched for pieces that parse
_TOUCHING = 0.02 * GAP  # common area of two boxes, in squares of the picture, that a drawn layout is forgiven

Draw = Callable[[int], Sequence[Scene]]
"""So many layouts for a prompt, from a generator."""


def plan(prompt: str, sprites: Sprites, rng: np.random.Generator, draw: Draw | None = None) -> Scene:
    """A layout for a prompt.

    Raises InputError for a prompt of which nothing is understood, for what has no room, and for numbers and signs beyond what a
    scene holds. Warns of other words that are not understood.
    """
    request = understood(prompt, sprites)
    if request is not None:
        return placed(request, sprites, rng)
    check_signs(" ".join(_wanted(prompt)))
    pieces, left = _read(prompt, sprites)
    plurals = {noun for noun in sprites.vocabulary.nouns if noun not in sprites.vocabulary.names}
    if several := next((w for run in left for w in run.lower().split(" ") if w in plurals), None):
        raise InputError(
            f"the prompt {_short(prompt)!r}: how many {several}, {NUMBERS[0]} to {NUMBERS[-1]}, is to be said before them"
        )
    if not pieces:
        few = ", ".join(sprites.vocabulary.names[:8])
        raise InputError(
            f"nothing in the prompt {_short(prompt)!r} is something that this model draws; it knows {few} ... and signs"
        )
    if left:
        told = " and ".join(f'"{_short(run)}"' for run in left)
        warnings.warn(f"the prompt {_short(prompt)!r}: not understood, and seen only by chance: {told}", stacklevel=2)
    together = pieces[0] if len(pieces) == 1 else Request(tuple(part for piece in pieces for part in piece.parts))

    def right(scene: Scene) -> bool:
        backdrops = all(piece.backdrop in (None, scene.backdrop.colour) for piece in pieces)
        return backdrops and holds(scene, together) and all(relation_holds(scene, piece) for piece in pieces)

    drawn = () if draw is None or not left else filter(sound, draw(DRAWS))
    anywhere = (place(together, rng, sprites) for _ in range(ANYWHERE))
    for scenes in (drawn, anywhere):
        if found := list(islice(filter(right, scenes), PLACINGS)):
            return max(found, key=_least)
    raise InputError(f"all of the prompt {_short(prompt)!r} cannot be laid out together; ask for less at once")


def check_signs(prompt: str) -> None:
    """InputError for a sign in the prompt that is to say what no sign can."""
    for word in filter(None, chain.from_iterable(_SIGNED.findall(prompt))):
        Saying(word.strip("\"'").upper())


def placed(request: Request, sprites: Sprites, rng: np.random.Generator) -> Scene:
    """Of PLACINGS layouts the one whose least thing is the largest. InputError for what has no room."""
    return max((place(request, rng, sprites) for _ in range(PLACINGS)), key=_least)


def understood(prompt: str, sprites: Sprites) -> Request | None:
    """What a prompt asks for, if the grammar reads the whole of it."""
    try:
        return parse(prompt, sprites.vocabulary)
    except InputError:
        return None


def fragments(prompt: str, sprites: Sprites) -> tuple[Request, ...]:
    """The longest pieces of a prompt that parse, from the left; none of a prompt without any.

    What comes behind "no" or "without" is not asked for.
    """
    return _read(prompt, sprites)[0]


def _read(prompt: str, sprites: Sprites) -> tuple[tuple[Request, ...], tuple[str, ...]]:
    """The pieces that are understood, and the runs of words between them that say something and are not; not what is denied.

    Raises InputError for a piece whose number is the end of a larger one.
    """
    words = _wanted(prompt)
    found: list[Request] = []
    left: list[list[str]] = [[]]
    start = 0
    while start < len(words):
        for end in range(len(words), start, -1):
            request = understood(" ".join(words[start:end]), sprites)
            if request is not None:
                before = left[-1][:-1] if left[-1][-1:] == ["and"] else left[-1]
                if before and _BEYOND.fullmatch(before[-1]) and _counts(words[start]):
                    number = " ".join([*left[-1][len(before) - 1 :], words[start]])
                    raise InputError(
                        f"the prompt {_short(prompt)!r}: {number!r} is more than a scene holds, {NUMBERS[0]} to {NUMBERS[-1]}"
                    )
                found.append(request)
                left.append([])
                start = end - 1
                break
        else:
            left[-1].append(words[start])
        start += 1
    said = []
    for run in left:
        saying = [i for i, word in enumerate(run) if word.lower() not in _SAYING_NOTHING]
        said += [" ".join(run[saying[0] : saying[-1] + 1]).replace(" ,", ",")] if saying else []
    return tuple(found), tuple(said)


def _wanted(prompt: str) -> list[str]:
    """A prompt's words, with a comma in place of each run that is denied.

    A run ends at a comma, at "but", before the number of the next thing, and behind "no" also at "and": "no star and an apple" has
    an apple, "without a star and an apple" has none.
    """
    wanted: list[str] = []
    denied: list[str] = []
    for word in re.findall(r'"[^"]*"|\d+(?:[.,]\d+)?%|\d+[.,]\d+|[\w\'-]+|,', prompt)[:_MOST_WORDS]:
        plain = word.lower()
        joined = denied[1:] and denied[-1] == "and"
        ends = plain in (",", "but") or (denied[:1] == ["no"] and plain == "and")
        if plain in _NOT:
            wanted.append(",")
            denied = [plain]
        elif denied and not ends and (len(denied) == 1 or joined or not (plain in ("a", "an") or _counts(plain))):
            denied.append(plain)
        else:
            wanted.append(word)
            denied = []
    return wanted


def _counts(word: str) -> bool:
    return word.isdigit() or word.lower() in NUMBERS


def spoken(prompt: str, pieces: Sequence[Request]) -> tuple[str, ...]:
    """The words that signs are to say: those of the pieces, then what stands in quotes or in capitals."""
    said = [part.word for piece in pieces for part in piece.parts if isinstance(part, Saying)]
    said += [a or b for a, b in re.findall(r'["“]([A-Za-z0-9]+)["”]|\b([A-Z][A-Z0-9]+)\b', prompt)]
    return tuple(dict.fromkeys(w.upper() for w in said if len(w) <= LONGEST))


def sound(scene: Scene) -> bool:
    """Whether a drawn layout can be a picture: something is there, nothing on anything else, no thing is smaller than things of the
    world are, and every letter has its width."""
    boxes = [t.box for t in scene.objects] + [s.box for s in scene.signs]
    apart = all(overlap(a, b) <= _TOUCHING for i, a in enumerate(boxes) for b in boxes[:i])
    seen = all(side >= 0.9 * SIZES["small"][0] for side in _sides(scene))
    return bool(boxes) and apart and seen and all(s.box[2] - s.box[0] >= 0.7 * PITCH[0] * len(s.word) for s in scene.signs)


def _sides(scene: Scene) -> list[float]:
    """The longer side of each thing's box."""
    return [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (t.box for t in scene.objects)]


def _least(scene: Scene) -> float:
    """Of the smallest thing the longer side; of a sign, the room for each letter."""
    return min(_sides(scene) + [(s.box[2] - s.box[0]) / len(s.word) for s in scene.signs])


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 60 else prompt[:57] + "..."

"""Captions from requests in many wordings, and requests back from captions.

    caption  = [lead] (single | linked | listed) [backdrop]
    single   = part
    linked   = part [is | are] relation part          | part "with" part relation (it | them)
    listed   = part ("," part)* "and" part
    part     = count [size] [colour] noun             | count [size] noun "in" colour       | sign
    sign     = "a sign that says" WORD | "a sign saying" WORD | "a sign with the word" WORD | "the word" WORD "on a sign" ...

`caption` walks it with a function that chooses; `parse` reads all that `caption` can write, and refuses the rest by naming the
words that it does not know.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.image.scenes.vocabulary import DRAWN, NUMBERS, Vocabulary, plural, singular
from unnoise.modalities.image.scenes.world import Group, Part, Relation, Request, Saying

Choose = Callable[[int], int]
"""Of so many wordings, which: 0 ... n - 1. The wording 0 is the plainest everywhere."""

LEADS = ("", "a picture of", "a drawing of", "an image of", "a scene with", "show me")
SIZE_WORDS: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"), "medium": ("medium", "medium-sized"), "large": ("large", "big", "huge"),
}  # fmt: skip
COLOUR_WORDS: Mapping[str, str] = {"gray": "grey", "violet": "purple"}
RELATION_WORDS: Mapping[Relation, tuple[str, ...]] = {
    Relation.LEFT_OF: ("left of", "to the left of", "on the left of"),
    Relation.RIGHT_OF: ("right of", "to the right of", "on the right of"),
    Relation.ABOVE: ("above", "over"),
    Relation.BELOW: ("below", "under", "beneath"),
    Relation.INSIDE: ("inside", "within"),
    Relation.BEHIND: ("behind",),
    Relation.IN_FRONT_OF: ("in front of",),
}
SIGNS = (
    "a sign that says {}", 'a sign that says "{}"', "a sign saying {}", 'a sign reading "{}"', "a sign with the word {}",
    "the word {} on a sign", 'a sign that reads "{}"', "one sign that says {}",
)  # fmt: skip
_PLAIN = str.maketrans("“”„‘’", '"""\'\'')
_JOINTS = (*(phrase for phrases in RELATION_WORDS.values() for phrase in phrases), "and", ",", "with", "is", "are", "it", "them")
BACKDROPS = ("on a {} background", "against a {} background")


def plainly(n: int) -> int:
    """The plainest wording."""
    return 0


def at_random(rng: np.random.Generator) -> Choose:
    """Any wording."""
    return lambda n: int(rng.integers(n))


def caption(request: Request, choose: Choose) -> str:
    """One wording of a request. `choose` decides each choice; `plainly` and `at_random` are such functions."""
    lead = LEADS[choose(len(LEADS))]
    said = [_said(part, choose) for part in request.parts]
    if request.relation is not None:
        linked = _linked(request, request.relation, said, choose)
        text = linked[choose(2 if lead else 3)]
    else:
        text = " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
    behind = f" {BACKDROPS[choose(len(BACKDROPS))].format(request.backdrop)}" if request.backdrop else ""
    return f"{lead} {text}{behind}".strip()


def _linked(request: Request, relation: Relation, said: Sequence[str], choose: Choose) -> tuple[str, str, str]:
    """The ways to join two parts; the last is a sentence and takes no lead."""
    how = RELATION_WORDS[relation][choose(len(RELATION_WORDS[relation]))]
    are, it = ("are" if _several(request.parts[0]) else "is"), ("them" if _several(request.parts[1]) else "it")
    return f"{said[0]} {how} {said[1]}", f"{said[1]} with {said[0]} {how} {it}", f"{said[0]} {are} {how} {said[1]}"


def _several(part: Part) -> bool:
    return isinstance(part, Group) and part.count > 1


def _said(part: Part, choose: Choose) -> str:
    if isinstance(part, Saying):
        return SIGNS[choose(len(SIGNS))].format(part.word)
    noun = part.name if part.count == 1 else plural(part.name)
    sizes = SIZE_WORDS[part.size] if part.size else ()
    size = [sizes[choose(len(sizes))]] if sizes else []
    words = [*size, part.colour, noun] if part.colour else [*size, noun]
    if part.colour and choose(4) == 3:
        words = [*size, noun, "in", part.colour]
    return f"{_count(part.count, words[0], choose)} {' '.join(words)}"


def _count(count: int, before: str, choose: Choose) -> str:
    article = "an" if before[0] in "aeiou" else "a"
    forms = (
        (article, NUMBERS[0], "1", "exactly one")
        if count == 1
        else (NUMBERS[count - 1], str(count), f"exactly {NUMBERS[count - 1]}")
    )
    return forms[choose(len(forms))]


# -- the way back ----------------------------------------------------------------------------------------------------------


def parse(text: str, vocabulary: Vocabulary = DRAWN) -> Request:
    """What a caption asks for. Capitals matter nowhere; a sign's word becomes capitals.

    Raises InputError for what the grammar does not know, naming the place; a model that draws freely goes on without.
    """
    rest = _Words.of(text)
    rest.lead()
    parts = [_part(rest, vocabulary)]
    relation: Relation | None = None
    if rest.takes("with"):
        second = _part(rest, vocabulary)
        relation = _relation(rest)
        rest.wants("it", "them")
        parts = [second, *parts]
    else:
        rest.takes("is", "are")
        relation = _relation(rest)
        if relation is not None:
            parts.append(_part(rest, vocabulary))
    while rest.takes("and", ","):
        rest.takes("and")
        parts.append(_part(rest, vocabulary))
    return Request(tuple(parts), relation, _backdrop(rest, vocabulary))


def vocabulary_of(text: str) -> Vocabulary:
    """The things that a caption of any world speaks of: what is left between the grammar's own words. Colours are part of names."""
    rest = _Words.of(text)
    rest.lead()
    names: dict[str, None] = {}
    while rest.words:
        if rest.takes(*_JOINTS):
            continue
        if rest.takes("on a", "against a"):
            rest.words = []  # a background comes last
            continue
        if rest.takes("a sign", "one sign", "sign", "the word"):
            rest.words = rest.words[next((i for i, w in enumerate(rest.words) if w in ("and", ",")), len(rest.words)) :]
            continue
        count = _counted(rest)
        rest.takes(*(word for words in SIZE_WORDS.values() for word in words))
        name = []
        while rest.words and not any(rest.next_is(phrase) for phrase in (*_JOINTS, "on a", "against a")):
            name.append(rest.words.pop(0).lower())
        if name:
            noun = " ".join(name)
            names[noun if count in (None, 1) else singular(noun)] = None
    return Vocabulary(tuple(names), ())


def _part(rest: "_Words", vocabulary: Vocabulary) -> Part:
    if rest.takes("the word"):
        word = rest.word()
        rest.wants("on a sign", "on one sign")
        return Saying(word)
    count = _counted(rest)
    if rest.takes("sign"):
        if count not in (None, 1):
            raise rest.error("one sign at a time")
        rest.wants("that says", "that reads", "saying", "reading", "with the word")
        return Saying(rest.word())
    size = next((size for size, words in SIZE_WORDS.items() if rest.takes(*words)), None)
    colour = _colour(rest, vocabulary.colours)
    noun = rest.takes(*sorted(vocabulary.nouns, key=lambda n: -len(n.split(" "))))
    if noun is None:
        known = f" such as {vocabulary.names[0]!r} or {vocabulary.names[-1]!r}" if vocabulary.names else ""
        raise rest.error(f"a thing{known}")
    if count is None and noun not in vocabulary.names:  # several, and nobody said how many
        raise rest.error(f"how many {noun} ({NUMBERS[0]} to {NUMBERS[-1]}), before them,")
    if colour is None:
        colour = _colour(rest, vocabulary.colours, "in ")
    return Group(vocabulary.nouns[noun], count or 1, colour, size)


def _counted(rest: "_Words") -> int | None:
    """None where nothing is said: "red circle left of blue square", "the house"; one, then, of what is not a plural."""
    rest.takes("exactly")
    if rest.takes("a", "an"):
        return 1
    for n, name in enumerate(NUMBERS, 1):
        if rest.takes(name, str(n)):
            return n
    rest.takes("the")
    return None


def _colour(rest: "_Words", colours: Sequence[str], before: str = "") -> str | None:
    words = {c: c for c in colours} | {w: c for w, c in COLOUR_WORDS.items() if c in colours}
    return next((colour for word, colour in words.items() if rest.takes(before + word)), None)


def _relation(rest: "_Words") -> Relation | None:
    return next((relation for relation, words in RELATION_WORDS.items() if rest.takes(*words)), None)


def _backdrop(rest: "_Words", vocabulary: Vocabulary) -> str | None:
    colour = None
    if rest.takes("on a", "against a"):
        colour = rest.takes(*vocabulary.backdrops)
        if colour is None:
            raise rest.error(f"a background's colour ({', '.join(vocabulary.backdrops)})")
        rest.wants("background")
    if rest.words:
        raise rest.error("the end")
    return colour


@dataclass
class _Words:
    """What is still to be read of a caption."""

    words: list[str]
    text: str

    @staticmethod
    def of(text: str) -> "_Words":
        return _Words(re.findall(r'"[^"]*"|[\w\'-]+|,', text.translate(_PLAIN).strip()), text)

    def next_is(self, phrase: str) -> bool:
        want = phrase.split(" ")
        return [w.lower() for w in self.words[: len(want)]] == want

    def takes(self, *phrases: str) -> str | None:
        """Read the first of these phrases that comes next, if one does."""
        for phrase in phrases:
            if self.next_is(phrase):
                del self.words[: len(phrase.split(" "))]
                return phrase
        return None

    def wants(self, *phrases: str) -> None:
        if self.takes(*phrases) is None:
            raise self.error(" or ".join(map(repr, phrases)))

    def lead(self) -> None:
        self.takes(*LEADS[1:], "there is", "there are")

    def word(self) -> str:
        """The word of a sign, whatever it is."""
        if not self.words:
            raise self.error("the word of the sign")
        return self.words.pop(0).strip("\"'").upper()

    def error(self, wanted: str) -> InputError:
        here = f"at {' '.join(self.words[:4])!r}" if self.words else "at the end"
        shown = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return InputError(f"the prompt {shown!r} is not understood {here}: {wanted} is expected there")

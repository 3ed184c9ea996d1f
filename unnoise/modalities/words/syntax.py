r"""The prompt language of AUTOMATIC1111's web UI (its wiki, "Features": attention/emphasis, prompt editing, alternating words).

    (word)  (word:1.3)   weight 1.1, weight 1.3; brackets multiply: ((word)) is 1.21
    [word]               weight 1 / 1.1
    [a:b:0.4]            a, and b from 0.4 of the steps on; [b:0.4] nothing and then b; [a::0.4] a and then nothing;
                         a whole number in place of 0.4 is a number of steps
    [a|b|c]              a, b and c in turn, one a step
    BREAK                what follows starts a new window of the encoder; the one before may be empty
    \( \) \[ \] \: \| \\ the characters themselves

A colon or bar that means none of this is itself, and so is AND, which joins prompts there. The web UI takes an unbalanced bracket
for one that closes at the end, or for a character; here it is refused, for it is a mistake more often than meant, and so is the
name of a LoRA in angles. Pure: text in, values out.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from unnoise.core.errors import InputError

EMPHASIS = 1.1
"""What one pair of brackets multiplies by, or divides by."""
LARGEST_WEIGHT = 10.0
DEEPEST = 50
"""Brackets within brackets, at most."""

_NUMBER = re.compile(r"\s*[+-]?[.\d][.\deE+-]*\s*")
_WEIGHT = re.compile(r":(\s*[+-]?[.\d][.\deE+-]*\s*)\)")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_ITSELF = "\\( or \\[ for a bracket that is only that"
_SPECIAL = "()[]:|\\"
_FILE = re.compile(r"<(?:lora|lyco|hypernet):[^>]*>")
_PLAIN = re.compile(r"[^()\[\]:|\\]+")

Span = tuple[str, float]
"""Text and its weight."""


@dataclass(frozen=True)
class Said:
    """What a prompt says at one time: chunks (BREAK stands between them) of spans, neighbours of different weight."""

    chunks: tuple[tuple[Span, ...], ...]

    @staticmethod
    def plain(text: str) -> "Said":
        """A text as it stands, with no meaning in its brackets."""
        return Said((((text, 1.0),),))

    @property
    def text(self) -> str:
        """The words alone."""
        return " ".join("".join(text for text, _ in chunk) for chunk in self.chunks)


class Words(NamedTuple):
    text: str


class Break(NamedTuple):
    pass


class Weighted(NamedTuple):
    items: "Items"
    weight: float


class Switch(NamedTuple):
    """before, and after from `when` on: a share of the steps, or with `counted` a number of them."""

    before: "Items"
    after: "Items"
    when: float
    counted: bool


class Turns(NamedTuple):
    options: tuple["Items", ...]


Item = Words | Break | Weighted | Switch | Turns
Items = tuple[Item, ...]


@dataclass(frozen=True)
class Prompt:
    """A prompt that was read."""

    items: Items

    def at(self, step: int, steps: int) -> Said:
        """What it says in step 0 <= step < steps."""
        chunks: list[tuple[Span, ...]] = []
        now: list[Span] = []
        for span in _spoken(self.items, step, steps):
            if span is None:
                chunks.append(_merged(now))
                now = []
            else:
                now.append(span)
        return Said((*chunks, _merged(now)) if now or not chunks else tuple(chunks))


def read(prompt: str) -> Prompt:
    """Raises InputError, with the place in the prompt, for an unbalanced bracket and for a number that cannot be meant."""
    return Prompt(_Reader(prompt).whole())


def stages(prompts: Sequence[str | None], steps: int) -> list[tuple[int, tuple[Said | None, ...]]]:
    """(first step, what each prompt says from there on), for every step at which one of the prompts says something new.

    Where a prompt that changes says nothing for a while, it is told as nothing: None.
    """
    courses: dict[str | None, list[Said | None]] = {None: [None]}
    for prompt in dict.fromkeys(p for p in prompts if p is not None):
        parsed = read(prompt)
        course = [parsed.at(step, steps) for step in range(steps if _changes(parsed.items) else 1)]
        courses[prompt] = [None if len(course) > 1 and not said.text.strip() else said for said in course]
    out: list[tuple[int, tuple[Said | None, ...]]] = []
    for step in range(max(map(len, courses.values()))):
        said = tuple(courses[p][min(step, len(courses[p]) - 1)] for p in prompts)
        if not out or out[-1][1] != said:
            out.append((step, said))
    return out


def escaped(text: str) -> str:
    """A text, such as a caption, as a prompt that says just that."""
    signs = "".join("\\" + c if c in _SPECIAL else c for c in text)
    return re.sub(r"\bBREAK\b", "BRE()AK", signs)  # brackets around nothing part it


def _spoken(items: Items, step: int, steps: int) -> Iterable[Span | None]:
    """Spans in order; None for a BREAK."""
    for item in items:
        match item:
            case Words(text):
                yield text, 1.0
            case Break():
                yield None
            case Weighted(inner, weight):
                for span in _spoken(inner, step, steps):
                    yield None if span is None else (span[0], span[1] * weight)
            case Switch(before, after, when, counted):
                yield from _spoken(before if step < int(when if counted else when * steps) else after, step, steps)
            case Turns(options):
                yield from _spoken(options[step % len(options)], step, steps)


def _changes(items: Items) -> bool:
    """Whether anything in there depends on the step."""
    return any(isinstance(i, Switch | Turns) or (isinstance(i, Weighted) and _changes(i.items)) for i in items)


def _merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Neighbours of one weight as one span; nothing is one without text."""
    alike = groupby(spans or [("", 1.0)], lambda span: span[1])
    return tuple(("".join(text for text, _ in some), weight) for weight, some in alike)


class _Reader:
    """Recursive descent; `i` is where it stands."""

    def __init__(self, prompt: str) -> None:
        self.prompt, self.i, self.depth = prompt, 0, 0

    def whole(self) -> Items:
        if named := _FILE.search(self.prompt):
            raise self.error(named.start(), f"{named.group()!r} names a file, which the options do: --lora FILE:0.8")
        items = self.items("")
        if self.i < len(self.prompt):
            raise self.error(self.i, f"{self.prompt[self.i]!r} closes nothing; write {_ITSELF}")
        return items

    def items(self, ends: str) -> Items:
        """All until one of the characters `ends`, or a closing bracket, or the end. The end is left standing."""
        out: list[Item] = []
        while self.i < len(self.prompt):
            c = self.prompt[self.i]
            if c in ends or c in ")]":
                break
            if c == "(":
                out.append(self.round())
            elif c == "[":
                out.append(self.square())
            elif ends == ")" and _WEIGHT.match(self.prompt, self.i):
                break
            else:
                out.extend(self.words())
        return tuple(out)

    def words(self) -> Iterable[Item]:
        """Plain text up to the next character that may mean something; or that one character, where it means itself.

        A backslash before any other character, or at the end, is dropped, as in A1111's `re_attention`: "hatsune\\_miku".
        """
        if plain := _PLAIN.match(self.prompt, self.i):
            self.i = plain.end()
            for k, part in enumerate(_BREAK.split(plain.group())):
                if k:
                    yield Break()
                if part:
                    yield Words(part)
            return
        c, after = self.prompt[self.i], self.prompt[self.i + 1 : self.i + 2]
        escape = c == "\\" and after != "" and after in _SPECIAL
        self.i += 2 if escape else 1
        if escape or c != "\\":
            yield Words(after if escape else c)

    def round(self) -> Weighted:
        start = self.open()
        items = self.items(")")
        weight = EMPHASIS
        if told := _WEIGHT.match(self.prompt, self.i):
            weight = self.number(told.group(1), self.i + 1)
            self.i = told.end() - 1
        self.close(start, ")")
        return self.weighted(items, weight, start)

    def square(self) -> Item:
        start = self.open()
        parts, starts, separators = [], [self.i], ""
        while True:
            parts.append(self.items(":|]"))
            if self.i >= len(self.prompt) or self.prompt[self.i] not in ":|":
                break
            separators += self.prompt[self.i]
            self.i += 1
            starts.append(self.i)
        last = self.prompt[starts[-1] : self.i]
        self.close(start, "]")
        if "|" in separators:
            if ":" in separators:
                raise self.error(start, "these brackets mix ':' and '|'")
            return Turns(tuple(parts))
        if separators and _NUMBER.fullmatch(last):
            if len(parts) > 3:
                raise self.error(start, "a change is [a:b:0.4], [b:0.4] or [a::0.4]")
            when, counted = self.number(last, starts[-1]), last.strip().isdecimal()
            if when < 0 or (when > 1 and not counted):
                raise self.error(starts[-1], f"{last.strip()}: a change comes at 0 to 1 of the steps, or at a whole number of them")
            return Switch(parts[0] if len(parts) == 3 else (), parts[-2], when, counted)
        joined = [item for k, part in enumerate(parts) for item in ((Words(":"), *part) if k else part)]
        return self.weighted(tuple(joined), 1 / EMPHASIS, start)

    def open(self) -> int:
        self.i, self.depth = self.i + 1, self.depth + 1
        if self.depth > DEEPEST:
            raise self.error(self.i - 1, f"more than {DEEPEST} brackets within each other")
        return self.i - 1

    def close(self, start: int, end: str) -> None:
        if self.prompt[self.i : self.i + 1] != end:
            raise self.error(start, f"{self.prompt[start]!r} is never closed by {end!r}; write {_ITSELF}")
        self.i, self.depth = self.i + 1, self.depth - 1

    def weighted(self, items: Items, weight: float, start: int) -> Weighted:
        if abs(weight) * _heaviest(items) > LARGEST_WEIGHT:
            raise self.error(start, f"a weight beyond {LARGEST_WEIGHT:g}; 0.5 to 1.5 are usual")
        return Weighted(items, weight)

    def number(self, text: str, at: int) -> float:
        try:
            return float(text)
        except ValueError:
            raise self.error(at, f"{text.strip()!r} is no number") from None

    def error(self, at: int, what: str) -> InputError:
        near = self.prompt[max(0, at - 15) : at + 15]
        return InputError(f"prompt, character {at + 1:,} (near {near!r}): {what}")


def _heaviest(items: Items) -> float:
    """The largest weight that anything inside already has."""
    inner = [1.0]
    for item in items:
        match item:
            case Weighted(some, weight):
                inner.append(abs(weight) * _heaviest(some))
            case Switch(before, after, _, _):
                inner += [_heaviest(before), _heaviest(after)]
            case Turns(options):
                inner += [_heaviest(o) for o in options]
    return max(inner)

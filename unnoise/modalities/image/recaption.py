"""Several captions for one picture, a few short and most long, from what a set says of it: its name, keywords, group and style.

A model that is trained on long descriptions follows what it is told more closely than one trained on the short captions that sets
come with; a small share of short ones (5 % in DALL-E 3) keeps it at home with both (Betker et al. 2023, "Improving image generation
with better captions", sections 2.2 and 3.3). There a language model writes the descriptions; here they are put together from the
set's own annotations, so nothing is said that the set does not.

Which keywords a caption has, how many, in which order and wording, is drawn from the picture's name alone: the same every time.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unnoise.core.errors import InputError

_NAME, _KEYWORDS = ("name", "title"), ("keywords", "tags")
_GROUP, _STYLE = ("group", "category"), ("style", "vendor")
_ITSELF, _BASE = "codepoint", "base"
VARIANTS = "variants"
"""The group of pictures that are versions of another one (a skin tone), beside the group that the set gives them."""


@dataclass(frozen=True)
class Facts:
    """What a set says of one picture. style: a word for how it is drawn, such as its maker. variant: a version of another one."""

    name: str
    keywords: tuple[str, ...] = ()
    group: str = ""
    style: str = ""
    variant: bool = False

    @staticmethod
    def of(row: Mapping[str, Any]) -> "Facts | None":
        """From a row of metadata.jsonl or captions.jsonl; None where it has no name."""
        name = _text(row, _NAME)
        if not name:
            return None
        said: Any = next((row[k] for k in _KEYWORDS if row.get(k)), [])
        words = said.replace(";", ",").split(",") if isinstance(said, str) else said if isinstance(said, list) else []
        keywords = dict.fromkeys(plainly(w) for w in words if isinstance(w, str))
        variant = bool(_text(row, (_BASE,))) and row.get(_BASE) != row.get(_ITSELF)
        fresh = tuple(w for w in keywords if w and w.lower() != name.lower())
        return Facts(name, fresh, _spaced(_text(row, _GROUP)), _spaced(_text(row, _STYLE)), variant)


@dataclass(frozen=True)
class Recaption:
    """How a picture's captions are mixed; in training one of them is drawn each time."""

    count: int = 10
    """Captions of every picture."""
    short: float = 0.1
    """Share of them that are the name alone; at least one is."""

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 1000:
            raise InputError(f"{self.count} captions a picture: 1 to 1000; 10 are usual")
        if not 0 <= self.short <= 1:
            raise InputError(f"short {self.short} is a share of the captions: 0 to 1; 0.05 to 0.2 are usual")

    def captions(self, facts: Facts, picture: str) -> tuple[str, ...]:
        """`count` captions, the short ones first. picture: its name in the set, which all choices follow from."""
        rng = np.random.Generator(np.random.Philox(key=_key(picture)))
        short = max(1, round(self.short * self.count))
        return (facts.name,) * short + tuple(_long(facts, rng) for _ in range(self.count - short))


def _long(facts: Facts, rng: np.random.Generator) -> str:
    """A description with some of the keywords (at least half of the time with all of them), the group and the style."""
    order = [facts.keywords[i] for i in rng.permutation(len(facts.keywords))]
    few = int(rng.integers(0, 2 * len(order) + 1))
    words = ", ".join(order[: max(few, min(1, len(order)))])
    return _WORDINGS[int(rng.integers(len(_WORDINGS)))](facts, words)


def _after(mark: str, text: str) -> str:
    return f"{mark}{text}" if text else ""


_WORDINGS: Sequence[Callable[[Facts, str], str]] = (
    lambda f, words: f"{f.name}{_after(', ', words)}{_after(', in the style of ', f.style)}",
    lambda f, words: f"{f.name}{_after(' in the style of ', f.style)}{_after(': ', words)}",
    lambda f, words: f"{f.name}{_after(' from ', f.group)}{_after(', showing ', words)}{_after(', ', f.style)}",
    lambda f, words: f"{_after('', f.style)} picture of {f.name}{_after(', ', words)}{_after(', ', f.group)}".strip(),
    lambda f, words: f"{_after('', f.group)}: {f.name}{_after(', ', words)}{_after(', ', f.style)}".removeprefix(": "),
)


def row_weights(facts: Sequence[Facts | None], weights: Mapping[str, float]) -> tuple[float, ...]:
    """How often each picture is to be drawn, against the others: the product of the weights of the groups it belongs to.

    Raises InputError for a group that no picture belongs to.
    """
    groups = {f.group for f in facts if f} | ({VARIANTS} if any(f and f.variant for f in facts) else set())
    for name in weights:
        if name not in groups:
            there = ", ".join(sorted(groups - {""})) or "none"
            raise InputError(f"no picture belongs to the group {name!r}, which a weight was given for; the groups are: {there}")
    return tuple(
        1.0 if f is None else weights.get(f.group, 1.0) * (weights.get(VARIANTS, 1.0) if f.variant else 1.0) for f in facts
    )


def _text(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return next((plainly(row[k]) for k in keys if isinstance(row.get(k), str) and row[k].strip()), "")


def plainly(text: str) -> str:
    """The text without blanks at its ends and double ones, and with a mark in place of every half surrogate (of an emoji that was
    cut in two), which no file can hold."""
    return " ".join(text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").split())


def _spaced(text: str) -> str:
    return plainly(text.replace("_", " ").replace("-", " "))


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest(), "little")

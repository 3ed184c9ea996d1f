"""Conditioners for words: class names, and free text read byte by byte. Used by every kind of data."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from unnoise.core.codec import Conditioner
from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.syntax import Said, Span
from unnoise.networks.text import LabelEmbedding, TextEncoderConfig, count_pieces, encode_bytes

_SHORTEST = 64  # bytes that can be read where all training captions are shorter
_PLAIN = str.maketrans("‘’“”‐‑‒–—", "''\"\"-----")
_SPARE_PIECES = 4  # for prompts of a few words more than any training caption


@dataclass(frozen=True)
class LabelsConfig:
    """One of the classes `names`, told to the network as a vector of `dim` numbers."""

    names: tuple[str, ...]
    dim: int

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names) or not all(n.strip() for n in self.names):
            raise InputError("class names must be distinct and not blank, and there must be at least one")
        if self.dim < 1:
            raise InputError(f"dim {self.dim} of the class vectors must be positive")

    def build(self) -> "Labels":
        return Labels(self)


class Labels(Conditioner):
    """cond: vector (B, dim). A prompt is a class name, in any case, with "_" or "-" for a space, or else its number from 0 on."""

    def __init__(self, config: LabelsConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = LabelEmbedding(len(config.names), config.dim)

    @cached_property
    def _ids(self) -> dict[str, int]:
        """What a class may be called; its exact name wins over another's spelling, the first over later ones."""
        names = self.config.names
        return {_spelling(n): i for i, n in reversed(list(enumerate(names)))} | {n: i for i, n in enumerate(names)}

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        """-> ids (B,) int64; the null class is the last id. InputError for a name that is none of the classes."""
        return {"ids": torch.tensor([len(self.config.names) if r is None else self._id(r) for r in raw], dtype=torch.int64)}

    def _id(self, prompt: str) -> int:
        names = self.config.names
        if not prompt.strip():
            raise InputError(f"the prompt is empty; leave it out for samples of any class, or give one of: {_few(names)}")
        for name in (prompt, _spelling(prompt)):
            if name in self._ids:
                return self._ids[name]
        if prompt.isdecimal() and len(prompt) < 10 and int(prompt) < len(names):
            return int(prompt)
        near = difflib.get_close_matches(_spelling(prompt), [_spelling(n) for n in names], n=3, cutoff=0.5)
        nearest = [next(n for n in names if _spelling(n) == s) for s in near]
        hint = f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else f"it knows: {_few(names)}"
        raise InputError(f"{_quoted(prompt)} is none of the {len(names)} classes of this model; {hint}")

    def forward(self, prepared: Cond) -> Cond:
        return {"vector": self.embed(prepared["ids"])}


@dataclass(frozen=True)
class TextConfig(EmphaticConfig):
    """Free text for `encoder`, at most encoder.length - 1 bytes of it (UTF-8).

    alphabet: every character of the training captions, normalised; a prompt with another is refused, for the model has no idea
    of it. examples: a few training captions, to show what it does understand.
    """

    encoder: TextEncoderConfig
    alphabet: str
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.alphabet:
            raise InputError("a text conditioner needs the alphabet of its training captions; there are none")

    @staticmethod
    def of(captions: Iterable[str], encoder: TextEncoderConfig) -> "TextConfig":
        """What there is to know of the training captions. The encoder's length and pieces are fitted to them."""
        seen = sorted({normalised(c) for c in captions} - {""}, key=lambda c: (len(c), c))
        length = max(_SHORTEST, 1 + max((len(c.encode()) for c in seen), default=0))
        pieces = max((count_pieces(c) for c in seen), default=0) + _SPARE_PIECES
        encoder = replace(encoder, length=length, pieces=min(encoder.pieces, pieces))
        middle = seen[len(seen) // 2 :: max(1, len(seen) // 8)][:3]  # of usual length
        return TextConfig(encoder, "".join(sorted(set("".join(seen)))), tuple(middle))

    def build(self) -> "Text":
        return Text(self)


class Text(Emphatic):
    """cond: tokens (B, L, token_dim), mask (B, L), vector (B, vector_dim), from an encoder that is trained along."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        """-> ids (B, L) int64, the end marked, padded to the window; and where a word has a weight, weights (B, L) of the bytes.

        InputError for a prompt that cannot be understood.
        """
        length = self.config.encoder.length
        spans = [[] if s is None else self._known(s) for s in said]
        texts = [None if s is None else "".join(text for text, _ in some) for s, some in zip(said, spans)]
        ids = [encode_bytes(text, length) for text in texts]
        prepared = {"ids": torch.stack(ids) if ids else torch.zeros(0, length, dtype=torch.int64)}
        if any(weight != 1 for some in spans for _, weight in some):
            prepared["weights"] = torch.ones(len(said), length)
            for row, some in zip(prepared["weights"], spans):
                told = torch.tensor([weight for text, weight in some for _ in text.encode()])
                row[: len(told)] = told
        return prepared

    def _known(self, said: Said) -> list[Span]:
        """The spans in normal spelling, as one text has it. A BREAK is a space: there is one window."""
        spans: list[Span] = []
        gap = False
        for text, weight in (span for chunk in said.chunks for span in (*chunk, (" ", 1.0))):
            words = normalised(text)
            gap = gap or text[:1].isspace()
            if words:
                spans.append((" " + words if gap and spans else words, weight))
                gap = text[-1:].isspace()
        self._check("".join(text for text, _ in spans))
        return spans

    def _check(self, text: str) -> None:
        if not text:
            raise InputError(f"the prompt is empty; leave it out for samples of anything{self._example()}")
        size, limit = len(text.encode()), self.config.encoder.length - 1  # one for the end
        if size > limit:
            raise InputError(f"the prompt {_quoted(text)} is {size:,} bytes long; this model reads at most {limit}: shorten it")
        if unknown := "".join(dict.fromkeys(c for c in text if c not in self.config.alphabet)):
            what = f"{_quoted(unknown)}, which no training caption has{self._example()}"
            raise InputError(f"the prompt {_quoted(text)} has {what}")

    def _example(self) -> str:
        return f"; give one such as {self.config.examples[0]!r}" if self.config.examples else ""

    def forward(self, prepared: Cond) -> Cond:
        return self.encoder(prepared["ids"], prepared.get("weights"))


def normalised(text: str) -> str:
    """One spelling for what means the same: composed characters (NFC), lower case, plain quotes and dashes, single spaces."""
    text = text.encode(errors="replace").decode()  # half a surrogate pair, from a broken file or terminal, is no character
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text.translate(_PLAIN)).lower()).split())


def _spelling(name: str) -> str:
    return normalised(name.replace("_", " ").replace("-", " ").casefold())


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")

"""Spelling: one token a character for the words that are to be written, after the tokens of the prompt.

A text encoder sees words as wholes and cannot spell them (Liu et al. 2022, 2212.10562); characters with their places can be copied
(ByT5, Xue et al. 2021, 2105.13626; TextDiffuser, Chen et al. 2023, 2305.10855). Which words are to be written:

    "OPEN"  “OPEN”  'OPEN'                                      what is quoted
    says OPEN, saying OPEN, reads, reading, spells, spelling    the word behind it, or all capitals behind it
    sign OPEN, sign: OPEN                                       the capitals behind it
    token of character c, the p-th of word w  =  norm(E_character[c] + E_place[p] + E_back[places to the word's end] + E_word[w])
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import printable

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.syntax import Said
from unnoise.networks.layers import RMSNorm

ASCII = "".join(c for c in printable if not c.isspace())
_CAPITALS = r"[A-Z0-9]+(?:\s+[A-Z0-9]+)*\b"
_WRITTEN = re.compile(
    r"\"([^\"]+)\"|“([^”]+)”|(?<!\w)'([^']+)'(?!\w)"
    rf"|\b(?:says|saying|reads|reading|spells|spelling):?\s+(?:({_CAPITALS})|([^\s\"“',.;]+))"
    rf"|\b(?:sign|signs|board|label):?\s+({_CAPITALS})"
)


def written(text: str) -> list[str]:
    """The words of a prompt that are to be written, in order."""
    return [word for match in _WRITTEN.finditer(text) for group in match.groups() if group for word in group.split()]


@dataclass(frozen=True)
class SpelledConfig(EmphaticConfig):
    """words: the text encoder whose tokens, `width` wide, come first. alphabet: every character that can be written.

    longest: characters of a word; most: words of a prompt.
    """

    words: EmphaticConfig
    width: int
    alphabet: str = ASCII
    longest: int = 16
    most: int = 8

    def __post_init__(self) -> None:
        if not self.alphabet or len(set(self.alphabet)) != len(self.alphabet):
            raise InputError("an alphabet has at least one character, and each once")

    @staticmethod
    def of(captions: Iterable[str], words: EmphaticConfig, width: int) -> "SpelledConfig":
        """With room for all that the training captions want written."""
        asked = [written(c) for c in captions]
        alphabet = ASCII + "".join(sorted({c for several in asked for word in several for c in word} - set(ASCII)))
        longest = max((len(word) for several in asked for word in several), default=0)
        return SpelledConfig(
            words, width, alphabet, max(SpelledConfig.longest, longest), max(SpelledConfig.most, *map(len, asked), 0)
        )

    def build(self) -> "Spelled":
        return Spelled(self)


class Spelled(Emphatic):
    """cond: as the text encoder's, its tokens (B, L + K, width) followed by those of K characters; trained along."""

    def __init__(self, config: SpelledConfig) -> None:
        super().__init__()
        self.config, self.words = config, config.words.build()
        self.character = nn.Embedding(1 + len(config.alphabet), config.width, padding_idx=0)
        self.place, self.back = nn.Embedding(config.longest, config.width), nn.Embedding(config.longest, config.width)
        self.word = nn.Embedding(config.most, config.width)
        self.norm = RMSNorm(config.width)
        self._ids = {c: i + 1 for i, c in enumerate(config.alphabet)}

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        """-> the encoder's tensors, and "spelled" (B, K, 4) int64: character + 1, place, places to the end, word; 0 0 0 0: none.

        InputError for a word that cannot be written.
        """
        return {"spelled": self._letters(said), **self.words.prepare_said(said)}

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        return {"spelled": self._letters(said), **self.words.prepare_away(said)}

    def _letters(self, said: Sequence[Said | None]) -> Tensor:
        rows = [torch.tensor(self._spelled(s.text if s else ""), dtype=torch.int64).reshape(-1, 4) for s in said]
        longest = max([1, *map(len, rows)])
        spelled = [pad(r, (0, 0, 0, longest - len(r))) for r in rows]
        return torch.stack(spelled) if rows else torch.zeros(0, 1, 4, dtype=torch.int64)

    def _spelled(self, text: str) -> list[tuple[int, int, int, int]]:
        words = written(text)
        if len(words) > self.config.most:
            raise InputError(f"the prompt asks for {len(words)} written words; this model writes {self.config.most} at most")
        for word in words:
            if len(word) > self.config.longest:
                what = f"has {len(word):,} characters; this model writes {self.config.longest} at most"
                raise InputError(f"the word {word[:20]!r}, which is to be written, {what}")
            if unknown := "".join(dict.fromkeys(c for c in word if c not in self._ids)):
                raise InputError(f"the word {word!r}, which is to be written, has {unknown!r}, which this model has never written")
        return [(self._ids[c], p, len(word) - 1 - p, w) for w, word in enumerate(words) for p, c in enumerate(word)]

    def forward(self, prepared: Cond) -> Cond:
        told = dict(self.words({k: v for k, v in prepared.items() if k != "spelled"}))
        spelled: Tensor = prepared["spelled"]
        character, place, back, word = spelled.unbind(-1)
        tokens = self.norm(self.character(character) + self.place(place) + self.back(back) + self.word(word))
        there = character > 0
        tokens = tokens.masked_fill(~there[..., None], 0).to(told["tokens"].dtype)
        return told | {"tokens": torch.cat([told["tokens"], tokens], 1), "mask": torch.cat([told["mask"], there], 1)}

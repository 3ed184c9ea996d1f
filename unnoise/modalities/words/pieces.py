"""Text into word pieces, as BERT's uncased vocabularies are read (Wu et al. 2016, 1609.08144; Devlin et al. 2018, 1810.04805).

Lower case, accents taken off, cut at spaces and around every punctuation mark; then from each word the longest piece that is known
is taken again and again, the pieces within a word being written "##piece". A word that cannot be taken apart is one unknown.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

UNKNOWN = "[UNK]"
LONGEST_WORD = 100  # characters; a longer one is an unknown


class Pieces:
    """vocabulary: the pieces in order; UNKNOWN must be among them. A piece's id is its place."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self._ids = {piece: i for i, piece in enumerate(vocabulary)}
        self.unknown = self._ids[UNKNOWN]
        self._word = lru_cache(maxsize=65_536)(self._taken_apart)

    def ids(self, text: str) -> list[int]:
        """The pieces of a text."""
        return [i for word in words(text) for i in self._word(word)]

    def _taken_apart(self, word: str) -> tuple[int, ...]:
        if len(word) > LONGEST_WORD:
            return (self.unknown,)
        out, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = self._ids.get(("##" if start else "") + word[start:end])
                if piece is not None:
                    break
            else:
                return (self.unknown,)
            out.append(piece)
            start = end
        return tuple(out)


def words(text: str) -> Iterator[str]:
    """Words and punctuation marks in BERT's normal spelling; Chinese characters stand alone."""
    cleaned = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    spaced = "".join(f" {c} " if _is_chinese(c) else c for c in cleaned)
    plain = "".join(c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn").lower()
    word = ""
    for c in plain:
        mark = _is_mark(c)
        if (c == " " or mark) and word:
            yield word
            word = ""
        if mark:
            yield c
        elif c != " ":
            word += c
    if word:
        yield word


def _is_mark(c: str) -> bool:
    """Punctuation, and every other sign of ASCII."""
    return (c.isascii() and c.isprintable() and not c.isalnum() and c != " ") or unicodedata.category(c).startswith("P")


def _is_chinese(c: str) -> bool:
    ranges = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
    return any(low <= ord(c) <= high for low, high in ranges)

"""A text encoder of our own, learnt from a frozen one (recipe `distil-text`): it is small, and saved with the model it tells.

Its words mean what they meant to its teacher, so a model that is told by it understands more words than it was trained with.
A teacher of meanings puts a strawberry beside a cherry; what tells them apart may be learnt along with the model that is told:

    token_i <- token_i + W E[id_i],    E = 0 at first, so that words which the training never said stay as they were taught
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unnoise.core.errors import InputError
from unnoise.core.state import Cond
from unnoise.modalities.words.emoji_names import named_emoji
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.pieces import UNKNOWN, Pieces, words
from unnoise.modalities.words.syntax import Said
from unnoise.networks.word_encoder import WordEncoderConfig

PADDING, NOTHING = "[PAD]", "[NOTHING]"


@dataclass(frozen=True)
class DistilledConfig(EmphaticConfig):
    """vocabulary: one piece a line, the first three PADDING, NOTHING and UNKNOWN. most: windows of encoder.length pieces a prompt.

    teacher: what it was learnt from, in words. learnt: rank of what is learnt along with a model, 0 for nothing.
    """

    encoder: WordEncoderConfig
    vocabulary: str
    teacher: str = ""
    most: int = 10
    learnt: int = 0

    def __post_init__(self) -> None:
        pieces = self.vocabulary.split("\n")
        if tuple(pieces[:3]) != (PADDING, NOTHING, UNKNOWN) or len(set(pieces)) != len(pieces):
            raise InputError(f"a vocabulary begins with {PADDING}, {NOTHING} and {UNKNOWN}, and no piece is there twice")
        if len(pieces) != self.encoder.rows:
            raise InputError(f"a vocabulary of {len(pieces):,} pieces for an encoder of {self.encoder.rows:,} rows")

    def build(self) -> "Distilled":
        return Distilled(self)


class Distilled(Emphatic):
    """cond: tokens (B, L, out), mask (B, L), vector (B, out). Its weights are saved; what the teacher taught stays as it is."""

    def __init__(self, config: DistilledConfig) -> None:
        super().__init__()
        self.config, self.pieces = config, Pieces(config.vocabulary.split("\n"))
        self.encoder = config.encoder.build().requires_grad_(False)
        self.learnt = _learnt(config.encoder.rows, config.learnt, config.encoder.out) if config.learnt else None

    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        """As `prepare`. A BREAK starts a new window."""
        return self._prepared(said)

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        """-> ids (B, L) int64, padded to the longest prompt, and where a word has a weight, weights (B, L).

        Words of captions that no piece of the vocabulary fits are one unknown. InputError for a text of too many pieces.
        """
        return self._prepared([None if r is None else Said.plain(r) for r in raw])

    def check(self, said: Said) -> None:
        """InputError for a prompt without a word, and for words that no piece of the vocabulary fits: they would be drawn as
        anything at all."""
        spoken = [w for chunk in said.chunks for text, _ in chunk for w in words(named_emoji(text))]
        meant = [word for word in spoken if any(map(str.isalnum, word))]
        if spoken and not meant:
            raise InputError(f'the prompt {said.text[:40]!r} has no words: say what to draw, such as "a cat"')
        for word in meant:
            if self.pieces.unknown in self.pieces.ids(word):
                start = unicodedata.normalize("NFC", word if len(word) <= 40 else word[:37] + "...")
                raise InputError(
                    f"{start!r} in the prompt: this model's vocabulary has no piece of it; leave it out, or use English"
                )

    def _prepared(self, said: Sequence[Said | None]) -> Cond:
        told = [self._told(s) for s in said]
        longest = max(map(len, told), default=1)
        ids, weights = torch.zeros(len(said), longest, dtype=torch.int64), torch.ones(len(said), longest)
        for row, weight, some in zip(ids, weights, told):
            row[: len(some)] = torch.tensor([i for i, _ in some])
            weight[: len(some)] = torch.tensor([w for _, w in some])
        return {"ids": ids} if bool((weights == 1).all()) else {"ids": ids, "weights": weights}

    def _told(self, said: Said | None) -> list[tuple[int, float]]:
        """Pieces and their weights; each chunk but the last fills its windows with padding, and one of no words says nothing."""
        length, told = self.config.encoder.length, list[tuple[int, float]]()
        for chunk in ((),) if said is None else said.chunks:
            told += [(0, 1.0)] * (-len(told) % length)
            told += [(i, weight) for text, weight in chunk for i in self.pieces.ids(named_emoji(text))] or [(1, 1.0)]
        if len(told) > self.config.most * length:
            start = said.text[:37] + "..." if said else ""
            pieces, windows = sum(i > 0 for i, _ in told), -(-len(told) // length)
            parted = f" in {windows} windows" if said and len(said.chunks) > 1 else ""
            most = f"{self.config.most * length:,} at most{f', in {self.config.most} windows' if parted else ''}"
            raise InputError(f"the prompt {start!r} has {pieces:,} pieces of words{parted}; this model reads {most}: shorten it")
        return told

    def forward(self, prepared: Cond) -> Cond:
        """Texts longer than the encoder's length are read window by window, laid end to end; the vector is the first one's."""
        length = self.config.encoder.length
        ids, weights = prepared["ids"], prepared.get("weights")
        starts = range(0, ids.shape[1], length)
        windows = [self._read(ids[:, a : a + length], None if weights is None else weights[:, a : a + length]) for a in starts]
        tokens, mask = (torch.cat([w[k] for w in windows], 1) for k in ("tokens", "mask"))
        mask = mask & (ids > 0)
        return {"tokens": tokens.masked_fill(~mask[..., None], 0), "mask": mask, "vector": windows[0]["vector"]}

    def _read(self, ids: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
        """One window of at most encoder.length pieces."""
        told: dict[str, Tensor] = self.encoder(ids, weights)
        if self.learnt is None:
            return told
        more = self.learnt(ids).masked_fill(~told["mask"][..., None], 0)
        more = more if weights is None else more * weights[..., None].to(more.dtype)
        vector = told["vector"] + more.sum(1) / told["mask"].sum(1, keepdim=True)
        return {"tokens": told["tokens"] + more, "mask": told["mask"], "vector": vector}


def _learnt(rows: int, rank: int, out: int) -> nn.Sequential:
    table = nn.Embedding(rows, rank)
    nn.init.zeros_(table.weight)
    return nn.Sequential(table, nn.Linear(rank, out, bias=False))

"""Words and labels into what a network can be told, trained along with it.

The text encoder reads bytes, so it knows every script and has no vocabulary to ship. It cuts them into pieces (a word, a
punctuation mark, a Chinese character or emoji; at most 16 bytes) and gives one token a piece:
    token = E_word[hash of the piece] + mean over its bytes of MLP(E_byte + E_place + E_gram[last 2 bytes] + E_gram[last 3 bytes])
then a small transformer over the pieces. The hash of the whole piece gives each word an identity of its own; the n-grams
(Bojanowski et al. 2016, 1607.04606) let unseen and misspelt words share what their parts mean. Hashes ignore ASCII case.

Ids (B, L) int64: 0 padding (at the end only), 1 the null caption (alone: 1 0 0 ...), 2 the end of the text, 3 + byte.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from unnoise.networks.layers import Attention, RMSNorm, SwiGLU

PADDING, NULL, END, BYTE = 0, 1, 2, 3
LONGEST_PIECE = 16  # bytes
PRIME = 2**31 - 1


def encode_bytes(text: str | None, length: int) -> Tensor:
    """A caption as ids (length,) int64; None is the null caption. ValueError if its UTF-8 bytes and the end do not fit."""
    ids = [NULL] if text is None else [*(BYTE + b for b in text.encode()), END]
    if len(ids) > length:
        raise ValueError(f"a text of {len(ids) - 1} bytes (UTF-8); at most {length - 1} fit")
    return torch.tensor(ids + [PADDING] * (length - len(ids)), dtype=torch.int64)


@dataclass(frozen=True)
class TextEncoderConfig:
    """length: the longest text, in bytes and the end. pieces: at most so many tokens a text; what is beyond shares the last one.

    width: of the tokens and of the vector. buckets: of each hash table.
    """

    length: int = 256
    width: int = 192
    depth: int = 3
    heads: int = 3
    pieces: int = 64
    buckets: int = 4096
    dropout: float = 0.0

    def build(self) -> "TextEncoder":
        return TextEncoder(self)


class LabelEmbedding(nn.Embedding):
    """Class numbers (B,) int64 in [0, classes], the last of which is the null class -> vectors (B, dim)."""

    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(classes + 1, dim)


def cut(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For every byte of ids (B, L): the number of its piece, its place in it, and whether it belongs to one at all."""
    byte = ids - BYTE
    upper, lower, digit = (((byte >= ord(a)) & (byte <= ord(b))) for a, b in ("AZ", "az", "09"))
    letter = upper | lower | digit | (byte >= 0x80)
    space = (byte == ord(" ")) | ((byte >= 0x09) & (byte <= 0x0D))
    counts = (ids != PADDING) & ~space
    alone = (byte >= 0xE3) | (counts & ~letter)  # first byte of a Chinese, Japanese, Korean character or emoji; punctuation
    after_letter = pad(letter[:, :-1], (1, 0), value=False)
    start = alone | (letter & ~after_letter)
    index = torch.arange(ids.shape[1], device=ids.device)
    place = index - torch.where(start, index, 0).cummax(1).values
    start = start | (counts & (place % LONGEST_PIECE == 0))
    return (start.cumsum(1) - 1).clamp(min=0), place % LONGEST_PIECE, counts


def multiplier(i: Tensor | int) -> Tensor | int:
    """An odd-looking number below PRIME for the i-th term of a hash (Knuth's multiplicative constant)."""
    return (2 * i + 1) * 2654435761 % PRIME


def fold(ids: Tensor) -> Tensor:
    """Ids with ASCII capitals made small."""
    capital = (ids >= BYTE + ord("A")) & (ids <= BYTE + ord("Z"))
    return torch.where(capital, ids + 32, ids)


def count_pieces(text: str) -> int:
    """How many tokens a text becomes, the end included: what `pieces` must be to read it whole."""
    ids = encode_bytes(text, len(text.encode()) + 1)
    piece, _, counts = cut(ids[None])
    return int(piece[counts].max()) + 1


class TextBlock(nn.Module):
    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(config.width), RMSNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        self.mlp = SwiGLU(config.width, config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), mask=mask)
        return x + self.mlp(self.norm2(x))


class TextEncoder(nn.Module):
    """ids (B, L) -> {"tokens": (B, P, width), "mask": (B, P), "vector": (B, width)}, P = min(pieces, L)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.byte, self.place = nn.Embedding(BYTE + 256, width), nn.Embedding(LONGEST_PIECE, width)
        self.gram, self.word = nn.Embedding(config.buckets, width), nn.Embedding(config.buckets, width)
        self.order = nn.Embedding(config.pieces, width)
        nn.init.normal_(self.order.weight, std=0.1)  # what a piece is counts more than where it stands
        self.hidden, self.mixed = nn.Linear(width, width), nn.Linear(width, width)
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.depth))
        self.norm, self.vector = RMSNorm(width), nn.Linear(width, width)

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
        """weights (B, L), of the bytes: a token, and its share of the vector, is multiplied by the mean over its own."""
        pieces = min(self.config.pieces, ids.shape[1])
        piece, place, counts = cut(ids)
        piece = piece.clamp(max=pieces - 1)
        small = fold(ids)
        before, before2 = pad(small[:, :-1], (1, 0)), pad(small[:, :-2], (2, 0))
        two = (small * multiplier(1) + before * multiplier(2)) % PRIME
        three = (two + before2 * multiplier(3)) % PRIME
        letters = torch.where(counts, small * multiplier(place + 4), 0)
        word = torch.zeros_like(ids[:, :pieces]).scatter_add(1, piece, letters) % PRIME

        h = self.byte(ids) + self.place(place) + self.gram(two % self.config.buckets) + self.gram(three % self.config.buckets)
        h = self.mixed(silu(self.hidden(h)))  # (B, L, width)
        belongs = (piece[:, None, :] == torch.arange(pieces, device=ids.device)[:, None]) & counts[:, None, :]  # (B, P, L)
        share = belongs.to(h.dtype) / belongs.sum(-1, keepdim=True).clamp(min=1)
        x = share @ h + self.word(word % self.config.buckets) + self.order.weight[:pieces]
        mask = belongs.any(-1)
        mask = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)  # a text of spaces alone still has one token
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x).masked_fill(~mask[..., None], 0)
        if weights is not None:
            of_piece = torch.where(belongs.any(-1, keepdim=True), share @ weights.to(x.dtype)[..., None], 1)
            x = x * of_piece
        return {"tokens": x, "mask": mask, "vector": self.vector(x.sum(1) / mask.sum(1, keepdim=True))}

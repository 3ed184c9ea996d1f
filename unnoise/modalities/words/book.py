"""Embeddings of known texts in a file, so that a frozen encoder need not run in the training loop.

One safetensors file, read row by row from where it lies: tokens (sum of L_i, D) and vectors (N, V) in float16, starts (N + 1), and
keys (N), the first 8 bytes of each text's blake2b. Its metadata names the encoder; a file of another encoder is refused.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unnoise.core.errors import InputError


class Row(NamedTuple):
    """What one text is told as: tokens (L, D), vector (V,) (V = 0: none), float32."""

    tokens: Tensor
    vector: Tensor


class Book:
    """A mapping from text to Row, held on the disk."""

    def __init__(self, file: Any, places: Mapping[int, int]) -> None:
        self._file, self._places = file, places
        self._starts = file.get_tensor("starts").tolist() if places else []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Book":
        return self

    @staticmethod
    def empty() -> "Book":
        return Book(None, {})

    @staticmethod
    def open(path: Path, identity: str) -> "Book":
        """InputError for a file that is truncated, or was made by another encoder."""
        try:
            file = safe_open(path, "pt")
            maker = (file.metadata() or {}).get("encoder")
            keys = file.get_tensor("keys").tolist()
        except (OSError, SafetensorError) as e:
            raise InputError(f"{path}: not readable as embeddings ({e}); remove it, and it is made again") from e
        if maker != identity:
            raise InputError(f"{path}: embeddings of encoder {maker}, not of {identity}; remove it, and it is made again")
        return Book(file, {key: i for i, key in enumerate(keys)})

    @staticmethod
    def write(path: Path, identity: str, rows: Mapping[str, Row]) -> None:
        """OSError or SafetensorError where it cannot be written; write to another name first, and rename."""
        several = list(rows.values())
        starts = torch.tensor([0, *(len(r.tokens) for r in several)]).cumsum(0)
        tensors = {
            "tokens": torch.cat([r.tokens for r in several]).half(),
            "vectors": torch.stack([r.vector for r in several]).half(),
            "starts": starts,
            "keys": torch.tensor([_key(text) for text in rows]),
        }
        save_file(tensors, path, {"encoder": identity})

    def __contains__(self, text: str) -> bool:
        return _key(text) in self._places

    def __getitem__(self, text: str) -> Row:
        i = self._places[_key(text)]
        tokens = self._file.get_slice("tokens")[self._starts[i] : self._starts[i + 1]]
        return Row(tokens.float(), self._file.get_slice("vectors")[i : i + 1][0].float())


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "little", signed=True)

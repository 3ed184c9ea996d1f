"""Names for weights: what a model, a codec or an encoder is known by, wherever it lies."""

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
import xxhash
from torch import Tensor

from unnoise.core.cache import cache_folder
from unnoise.core.errors import InputError
from unnoise.core.files import atomically

LARGE = 1 << 26
"""Bytes of tensors whose hash is kept for other processes."""
_HASH = re.compile(r"[0-9a-f]{16,64}")


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes: the same for the same weights, wherever they lie."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        v = tensors[name].detach().cpu().contiguous()
        h.update(f"{name} {v.dtype} {tuple(v.shape)}".encode())
        h.update(v.reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


class Remembered:
    """The hash of tensors that are asked for again and again: sha256 is computed anew only where a number among them changed.

    What tells is a print of all their bytes at every call. It takes a twelfth of sha256's time, far less than one call of the
    network, which reads every weight too. Counters of versions would be free, but do not see what is written through `.data` or
    numpy, and each of the library's own ways to change weights would have to say so. This needs no one's help.
    """

    def __init__(self) -> None:
        self._seen = self._hash = ""
        self._fixed = False

    def fix(self) -> None:
        """The last hash stays, whatever becomes of the tensors: of weights that are about to be rounded for a processor."""
        self._fixed = True

    def of(self, tensors: Mapping[str, Tensor]) -> str:
        """See `tensors_hash`."""
        if not self._fixed and (seen := print_of(tensors)) != self._seen:
            self._seen, self._hash = seen, kept(seen, size_of(tensors), lambda: tensors_hash(tensors))
        return self._hash


def kept(seen: str, size: int, compute: Callable[[], str]) -> str:
    """What `compute` says of tensors whose print is `seen`, from the last process that asked, where they are large.

    Kept in the `cache_folder`, a small file for every print: a checkpoint of 2 GB starts a second sooner. There is nothing to go
    stale, for other weights have another print.
    """
    if size < LARGE:
        return compute()
    file = cache_folder() / "hashes" / seen
    with suppress(OSError):
        if _HASH.fullmatch(found := file.read_text(encoding="ascii", errors="replace")):
            return found
    made = compute()
    with suppress(InputError), atomically(file) as partial:  # a home that cannot be written to
        partial.write_text(made, encoding="ascii")
    return made


def print_of(tensors: Mapping[str, Tensor]) -> str:
    """XXH3 (128 bits) over names, dtypes, shapes, layouts and bytes as they lie. Tells weights apart as `tensors_hash` does slowly,
    unless somebody made them to be mistaken for each other.
    """
    h = xxhash.xxh3_128()
    for name in sorted(tensors):
        v = tensors[name].detach()
        h.update(f"{name} {v.dtype} {tuple(v.shape)} {v.stride()}".encode())
        if v.ndim == 4 and v.is_contiguous(memory_format=torch.channels_last):
            v = v.permute(0, 2, 3, 1)
        h.update(v.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return h.hexdigest()


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes."""
    return sum(v.numel() * v.element_size() for v in tensors.values())

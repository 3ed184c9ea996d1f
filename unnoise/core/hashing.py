"""Names for weights: what a model, a codec or an encoder is known by, wherever it lies."""

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from unnoise.core.cache import cache_folder
from unnoise.core.errors import InputError
from unnoise.core.files import atomically

WORDS = 1024
"""64-bit words of a block of `fold`."""
BLOCKS = 128
"""Blocks folded at once: 1 MiB, which a processor keeps near for the second look."""
LARGE = 1 << 26
"""Bytes of tensors whose hash is kept for other processes."""
_HASH = re.compile(r"[0-9a-f]{16,64}")
_M, _N = (torch.randint(-(2**63), 2**63 - 1, (WORDS,), generator=torch.Generator().manual_seed(s)) | 1 for s in (0, 1))


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

    What tells is a fold of all their bytes at every call. It takes a third of sha256's time, less than one call of the network,
    which reads every weight too. Counters of versions would be free, but do not see what is written through `.data` or numpy, and
    each of the library's own ways to change weights would have to say so. This needs no one's help.
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
    """sha256 over names, dtypes, shapes, layouts and folds of all bytes. Tells weights apart, as `tensors_hash` does slowly."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        v = tensors[name].detach()
        h.update(f"{name} {v.dtype} {tuple(v.shape)} {v.stride()}".encode())
        h.update(fold(v))
    return h.hexdigest()


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes."""
    return sum(v.numel() * v.element_size() for v in tensors.values())


def fold(x: Tensor) -> bytes:
    """All bytes of a tensor as they lie in memory, 8 KiB of them folded into 8; what is left over at the end as it is.

    With w_i the block's 64-bit words, and v_i those that begin half a word later:

        sum_i  m_i w_i + n_i v_i   mod 2^64        m, n drawn once, odd

    This is the multilinear hash of Lemire and Kaser (2014, 1202.4961, section 2) in words of 32 bits: two blocks that differ have
    the same sum with a chance of 2^-32. Half of every word is among the lower bits of w or of v, so that signs, the highest
    bits, count too.
    """
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    memory = x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    blocks = max(0, len(memory) - 4) // (8 * WORDS)
    out = []
    for at in range(0, blocks, BLOCKS):
        shape, start = (min(BLOCKS, blocks - at), WORDS), 8 * WORDS * at
        w, v = (
            torch.frombuffer(memory.data, dtype=torch.int64, count=shape[0] * WORDS, offset=start + half).view(shape)
            for half in (0, 4)
        )
        out.append((w @ _M + v @ _N).numpy().tobytes())
    return b"".join(out) + memory[8 * WORDS * blocks :].tobytes()

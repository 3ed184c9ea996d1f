"""Tensors of diffusers' cut out of the originals they are part of, when they are asked for.

Originals fuse what diffusers keeps apart (queries, keys and values are one matrix), and order some rows otherwise. A piece says
which rows of which tensor it is; reading it reads those rows alone, and rows that lie together are not copied.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from unnoise.checkpoints.foreign.mapped import MappedFile, joined
from unnoise.core.errors import InputError
from unnoise.networks.packed import Rows

_FLOAT8 = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
_READ = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "BOOL", *_FLOAT8}
MARKS = ("v_pred", "ztsnr", "edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
"""Tensors that belong to no network: they say how one was trained."""
LOW_RANK = "lora_controlnet"
"""A tensor that says that the others are a ControlNet's less the U-Net it was made of, some as `up` and `down`."""
_SCALES = (".scale_weight", ".weight_scale")  # beside a "weight" of eight bits: what it is to be multiplied with


class Shapes(dict[str, tuple[int, ...]]):
    """Names of tensors -> shapes. Asking for one that is not there is an InputError: the file is not what its other names say."""

    def __missing__(self, name: str) -> tuple[int, ...]:
        raise InputError(f"the file lacks {name!r}; it is incomplete, or parts of two models mixed up")

    def below(self, prefix: str) -> "Shapes":
        """Those whose names begin so, without the prefix."""
        return Shapes({name[len(prefix) :]: shape for name, shape in self.items() if name.startswith(prefix)})


class Store(Protocol):
    """A file of tensors. metadata: what it says beside them."""

    shapes: Shapes
    metadata: Mapping[str, str]

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows start .. stop - 1 of a tensor, along its first axis; of a scalar, the scalar."""

    def packed(self, name: str, start: int, stop: int) -> Rows | None:
        """The same of a matrix, as the file has them; None where its numbers lie there plainly, or not row by row."""


@dataclass(frozen=True)
class Piece:
    """Ranges of rows of the original tensor `name`, one under the other; transposed, if it is turned; then of this shape."""

    name: str
    rows: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]
    turned: bool = False


class Cut(Mapping[str, Tensor]):
    """The tensors of a store, cut into pieces that go by diffusers' names."""

    def __init__(self, store: Store, pieces: Mapping[str, Piece]) -> None:
        self._store, self._pieces = store, pieces
        self.shapes = Shapes({name: piece.shape for name, piece in pieces.items()})
        """Known without reading anything."""

    def __getitem__(self, name: str) -> Tensor:
        piece = self._pieces[name]
        read = [self._store.rows(piece.name, start, stop) for start, stop in piece.rows]
        tensor = read[0] if len(read) == 1 else joined(read)
        return (tensor.T.contiguous() if piece.turned else tensor).reshape(piece.shape)

    def packed(self, name: str) -> list[Rows]:
        """See `packed_rows`."""
        piece = self._pieces[name]
        if piece.turned or len(piece.shape) != 2:
            return []
        found = [self._store.packed(piece.name, start, stop) for start, stop in piece.rows]
        return [r for r in found if r is not None and r.columns == piece.shape[1]] if None not in found else []

    def __contains__(self, name: object) -> bool:  # a Mapping's own would read the tensor
        return name in self._pieces

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


def as_they_are(store: Store) -> Cut:
    """The tensors of a store whole, by its own names."""
    shapes = {name: shape for name, shape in store.shapes.items() if name not in MARKS}
    return Cut(store, {name: Piece(name, ((0, shape[0] if shape else 1),), shape) for name, shape in shapes.items()})


class And(Mapping[str, Tensor]):
    """Tensors of a file, and some that it has no need to store, which count where both have one."""

    def __init__(self, tensors: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> None:
        self._tensors, self._more = tensors, more

    def __getitem__(self, name: str) -> Tensor:
        return self._more[name] if name in self._more else self._tensors[name]

    def packed(self, name: str) -> list[Rows]:
        """See `packed_rows`."""
        return [] if name in self._more else packed_rows(self._tensors, name)

    def __contains__(self, name: object) -> bool:
        return name in self._more or name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter({**dict.fromkeys(self._tensors), **dict.fromkeys(self._more)})

    def __len__(self) -> int:
        return len({*self._tensors, *self._more})


def packed_rows(tensors: Mapping[str, Tensor], name: str) -> list[Rows]:
    """The rows of a matrix as its file packs them, from the first to the last; empty where it does not, or not row by row."""
    return tensors.packed(name) if isinstance(tensors, Cut | And) and name in tensors else []


@dataclass(frozen=True)
class Float8:
    """Numbers of eight bits, (rows, columns), with a scale in float32 behind, one or one a row, or none."""

    dtype: torch.dtype
    columns: int

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def __call__(self, kept: Sequence[Tensor], first: int, last: int) -> Tensor:
        numbers = kept[0].view(self.dtype).view(-1, self.columns)[first:last]
        if len(kept) == 1:
            return numbers.to(torch.bfloat16)
        scale = kept[1].view(torch.float32)
        return (numbers.float() * (scale if len(scale) == 1 else scale[first:last, None])).to(torch.bfloat16)


class SafetensorsStore:
    """A safetensors file, mapped into memory. Numbers of eight bits come as bfloat16, which holds them, times their scale."""

    def __init__(self, path: Path) -> None:
        """InputError for a file that is missing or truncated, or whose numbers are packed in a way that is not read here."""
        self._file = MappedFile(path)
        self.metadata = self._file.metadata
        self.shapes = Shapes({name: shape for name, shape in self._file.shapes.items() if not _beside(name)})
        dtypes = self._dtypes = self._file.dtypes
        packed = [n for n in dtypes if ".quant_state." in n or (dtypes[n] not in _READ and n.endswith(".weight"))]
        if packed:
            raise InputError(
                f"{path}: {packed[0]!r} is packed (as {dtypes[packed[0]]}: bitsandbytes, nvfp4 and the like); "
                "take the same model in bfloat16, float8 or as GGUF"
            )

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        tensor = self._file[name][start:stop] if self.shapes[name] else self._file[name]
        if self._dtypes[name] not in _FLOAT8:
            return tensor
        for end in _SCALES:
            if (scale := name.removesuffix(".weight") + end) in self._dtypes:
                return (tensor.float() * self._factor(scale, name, start, stop)).to(torch.bfloat16)
        return tensor.to(torch.bfloat16)

    def packed(self, name: str, start: int, stop: int) -> Rows | None:
        if self._dtypes[name] not in _FLOAT8 or not self.shapes[name]:
            return None
        scales = [scale for end in _SCALES if (scale := name.removesuffix(".weight") + end) in self._dtypes]
        stored, columns = self._file[name][start:stop], math.prod(self.shapes[name][1:])
        kept = [stored, *(self._factor(scale, name, start, stop) for scale in scales[:1])]
        return Rows(stop - start, columns, Float8(stored.dtype, columns), tuple(k.reshape(-1).view(torch.uint8) for k in kept))

    def _factor(self, scale: str, name: str, start: int, stop: int) -> Tensor:
        """One number for the whole tensor, or one for each of its rows, as a column. InputError for another scale."""
        factor, rows = self._file[scale].float(), self.shapes[name][0]
        if factor.numel() == 1:
            return factor
        if factor.numel() != rows or factor.shape[0] != rows:
            kept = f"{scale!r} {tuple(factor.shape)} beside {self.shapes[name]}"
            raise InputError(
                f"{kept}: scaled by blocks, which is not read here; take the same model in bfloat16, float8 or as GGUF"
            )
        return factor[start:stop].view(-1, *[1] * (len(self.shapes[name]) - 1))


def _beside(name: str) -> bool:
    """Whether a tensor only says how another is to be read."""
    return name.split(".")[-1] in {"scaled_fp8", "comfy_quant", "scale_weight", "weight_scale", "scale_input", "input_scale"}

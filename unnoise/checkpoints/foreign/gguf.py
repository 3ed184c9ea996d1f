"""Quantised tensors in GGUF files, read one by one: of whole models and their parts under their original names, T5's under
llama.cpp's (`single` knows them by these).

Blocks of 32 or 256 weights share a scale (and an offset) of few bits (`ggml`); the `gguf` package of llama.cpp reads the file, and
unpacks what is rare. Unpacked tensors are float32, as exact as they get; F16 and BF16 stay as they are.
Rows are unpacked alone where they are made of whole blocks. ggml drops the first sizes of a shape that are 1 (its last).
"""

import errno
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unnoise.checkpoints.foreign.ggml import UNPACK
from unnoise.checkpoints.foreign.mapped import refuse_pointer
from unnoise.checkpoints.foreign.pieces import Shapes
from unnoise.core.errors import InputError
from unnoise.networks.packed import Rows

_SHAPE = "comfy.gguf.orig_shape."  # ComfyUI stores some tensors flat, and their shapes apart


def refuse_text(store: "GGUFStore", path: Path) -> None:
    """InputError for a text encoder of llama.cpp's that is not read."""
    if store.architecture in _TEXT:
        raise InputError(f"{path}: a {store.architecture} text encoder as GGUF; take it as safetensors")


_TEXT = ("t5", "t5encoder", "clip", "llama", "qwen2", "qwen2vl", "qwen3", "gemma2", "gemma3")


@dataclass(frozen=True)
class Ggml:
    """A packing of ggml's by its name: rows of so many columns, each of `blocks` of so many bytes."""

    name: str
    columns: int
    blocks: int
    length: int

    def __call__(self, kept: Sequence[Tensor], first: int, last: int) -> Tensor:
        rows = kept[0].view(-1, self.blocks * self.length)[first:last]
        return unpacked(self.name, rows, self.length).view(last - first, self.columns)


def unpacked(kind: str, data: Tensor, length: int) -> Tensor:
    """Bytes of whole blocks of so many -> float32. InputError for a kind that is not known."""
    if kind in UNPACK:
        return UNPACK[kind](data.reshape(-1, length))
    import gguf

    try:
        return torch.from_numpy(gguf.dequantize(data.numpy(), gguf.GGMLQuantizationType[kind]))
    except NotImplementedError as e:
        raise InputError(f"packed as {kind}, which the gguf package does not unpack") from e


class GGUFStore:
    """A GGUF file, mapped into memory. architecture: what it calls itself, such as "flux"."""

    metadata: Mapping[str, str] = MappingProxyType({})

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        try:
            import gguf
        except ModuleNotFoundError:
            raise InputError(f"{path}: reading GGUF needs the gguf package: pip install 'unnoise[gguf]'") from None
        try:
            reader = gguf.GGUFReader(path, "c")  # writable in memory, never in the file: tensors may share it
            self._tensors: dict[str, Any] = {t.name: t for t in reader.tensors}
            told = reader.get_field("general.architecture")
            self.architecture = str(told.contents()) if told else ""
            fields = {n.removeprefix(_SHAPE): f.contents() for n, f in reader.fields.items() if n.startswith(_SHAPE)}
        except OSError as e:
            if e.errno != errno.ENOMEM:
                raise InputError(f"{path}: {e.strerror or e}") from e
            raise InputError(f"{path}: more than memory and swap together; a smaller quantisation would fit") from e
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as e:
            refuse_pointer(path)
            raise InputError(f"{path}: not whole as GGUF ({e}); it was truncated or is something else: fetch it again") from e
        self.shapes = Shapes({name: tuple(fields.get(name) or _shape(name, t.shape)) for name, t in self._tensors.items()})
        self._blocks = {kind: size for kind, (size, _) in gguf.GGML_QUANT_SIZES.items()}
        self._lengths = {kind: length for kind, (_, length) in gguf.GGML_QUANT_SIZES.items()}
        self._plain = {gguf.GGMLQuantizationType.BF16: torch.bfloat16}
        self._where = path

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        stored, shape = self._tensors[name], self.shapes[name]
        rows, columns = shape[0] if shape else 1, math.prod(shape[1:])
        if columns % self._blocks[stored.tensor_type]:
            return self._read(name, stored.data.reshape(-1)).reshape(shape)[start:stop]
        data = stored.data.reshape(rows, -1)[start:stop]
        return self._read(name, data).reshape((stop - start, *shape[1:])[: len(shape)])

    def packed(self, name: str, start: int, stop: int) -> Rows | None:
        stored, shape = self._tensors[name], self.shapes[name]
        columns, kind = math.prod(shape[1:]), stored.tensor_type
        if not shape or stored.data.dtype != np.uint8 or kind in self._plain or columns % self._blocks[kind]:
            return None
        kept = torch.from_numpy(stored.data.reshape(shape[0], -1)[start:stop]).reshape(-1)
        return Rows(stop - start, columns, Ggml(kind.name, columns, columns // self._blocks[kind], self._lengths[kind]), (kept,))

    def _read(self, name: str, data: np.ndarray) -> Tensor:
        kind = self._tensors[name].tensor_type
        if data.dtype in (np.float32, np.float16):
            return torch.from_numpy(np.ascontiguousarray(data))
        if kind in self._plain:
            return torch.from_numpy(np.ascontiguousarray(data)).view(self._plain[kind])
        try:
            return unpacked(kind.name, torch.from_numpy(data), self._lengths[kind])
        except InputError as e:
            raise InputError(f"{self._where}: {name!r} is {e}") from e


def _shape(name: str, sizes: Sequence[Any]) -> list[int]:
    """What a shape was, of ggml's sizes: of all networks here SD3's positions alone begin with 1, and have three."""
    left = [int(n) for n in reversed(sizes)]
    return [1, *left] if name.rpartition(".")[2] == "pos_embed" and len(left) == 2 else left

"""Quantised networks in GGUF files, read tensor by tensor: a transformer or U-Net under its original names, T5 under llama.cpp's.

Blocks of 32 or 256 weights share a scale (and an offset) of few bits (`ggml`); the `gguf` package of llama.cpp reads the file, and
unpacks what is rare. Unpacked tensors are float32, as exact as they get; F16 and BF16 stay as they are.
Rows are unpacked alone where they are made of whole blocks.
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
from unnoise.checkpoints.foreign.original_configs import NETWORK_PREFIXES, NETWORKS, part, t5_of_gguf
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.pieces import Shapes
from unnoise.checkpoints.foreign.recognise import refuse_other, unknown
from unnoise.core.errors import InputError
from unnoise.networks.packed import Rows

_SHAPE = "comfy.gguf.orig_shape."  # ComfyUI stores some tensors flat, and their shapes apart


def open_gguf(path: Path) -> Part:
    """The network of a GGUF file: FLUX, SD3, a U-Net of Stable Diffusion, or T5's encoder.

    Raises InputError for a file that is missing, truncated or none, of a family that is not run here, and without the extra `gguf`.
    """
    return network_of(GGUFStore(path), path)


def network_of(store: "GGUFStore", path: Path) -> Part:
    """`open_gguf`, of a file that is open already."""
    for prefix in NETWORK_PREFIXES:
        for _, sign, reading in NETWORKS:
            if prefix + sign in store.shapes:
                return part(store, prefix, reading, str(path))
    if _T5 in store.shapes:
        return part(store, "", t5_of_gguf, str(path))
    if store.architecture in _TEXT:
        raise InputError(f"{path}: a {store.architecture} text encoder as GGUF; take it as safetensors")
    refuse_other(store.shapes, path)
    raise unknown(store.shapes, path)


_T5 = "enc.blk.0.attn_q.weight"
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
            raise InputError(f"{path}: not whole as GGUF ({e}); it was truncated or is something else: fetch it again") from e
        self.shapes = Shapes(
            {name: tuple(fields.get(name, [int(n) for n in reversed(t.shape)])) for name, t in self._tensors.items()}
        )
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

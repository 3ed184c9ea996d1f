"""Safetensors files mapped into memory, and the memory that reading took given back once a copy is made.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name -> dtype, shape, first and last byte behind the
header), and the numbers of all tensors. Mapped, its pages are fetched when they are touched, and count as the process's own from
then on (its resident set), beside any copy of them: a weight that is laid out in another way would be there twice. `let_go` takes
the pages out of the process again; they stay in the system's cache of files, and come back from there if they are touched again.
"""

import json
import mmap
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unnoise.core.errors import InputError

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
_NO_RESERVE = 0x4000
_COPIED: Mapping[str, int] = (
    {"flags": mmap.MAP_PRIVATE | _NO_RESERVE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
    if sys.platform == "linux"
    else {"access": mmap.ACCESS_COPY}
)
"""How a file is mapped: what is written is the process's own. Without the flag (mman.h) Linux refuses files larger than its memory,
as if all of them were to be written to."""


def refuse_pointer(path: Path) -> None:
    """InputError for a file that only points to another."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise InputError(f"{path}: only points to the file, which git-lfs has not fetched: git lfs pull")


_POINTER = b"version https://git-lfs"


def open_safetensors(path: Path, framework: str = "pt") -> Any:
    """safetensors' handle of a file: keys(), get_tensor(name), metadata(). InputError for a file that is missing or truncated, and
    for one that only points to another."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return safe_open(str(path), framework=framework)
    except (OSError, SafetensorError) as e:
        refuse_pointer(path)
        raise InputError(f"{path}: not whole as safetensors ({e}); it was truncated or is something else: fetch it again") from e


class MappedFile(Mapping[str, Tensor]):
    """The tensors of one safetensors file. They may be written to: what is written is the process's own, not the file's.

    dtypes: as the file calls them, such as "BF16". shapes, metadata: known without reading anything else.
    """

    def __init__(self, path: Path) -> None:
        """InputError for a file that is missing or truncated."""
        self._path = path
        self.metadata: Mapping[str, str] = open_safetensors(path, "np").metadata() or {}  # and checked; "pt" maps it all
        with path.open("rb") as file:
            self._memory = _Memory(file.fileno(), 0, **_COPIED)
        start = 8 + int.from_bytes(self._memory[:8], "little")
        header: dict[str, Any] = json.loads(self._memory[8:start])
        header.pop("__metadata__", None)
        self.dtypes: Mapping[str, str] = {name: told["dtype"] for name, told in header.items()}
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tuple(told["shape"]) for name, told in header.items()}
        self._places = {name: (start + told["data_offsets"][0], start + told["data_offsets"][1]) for name, told in header.items()}
        _MAPPED.add(self._memory)

    def __getitem__(self, name: str) -> Tensor:
        first, last = self._places[name]
        if (dtype := _DTYPES.get(self.dtypes[name])) is not None and first == last:
            return torch.empty(self.shapes[name], dtype=dtype)
        if dtype is None:
            return open_safetensors(self._path).get_tensor(name)  # what torch has no name for
        count = (last - first) // dtype.itemsize
        return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=first).view(self.shapes[name])

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Memory(mmap.mmap):
    """A mapped file. start: its address."""

    @property
    def start(self) -> int:
        return torch.frombuffer(self, dtype=torch.uint8, count=1).data_ptr()

    def let_go(self, first: int, last: int) -> None:
        """Whole pages between two addresses."""
        page, start = mmap.PAGESIZE, self.start
        first, last = -(-(first - start) // page) * page, (last - start) // page * page
        if first < last:
            self.madvise(mmap.MADV_DONTNEED, first, last - first)


_MAPPED: WeakSet[_Memory] = WeakSet()
"""By which memory that is a file's is told from all other, whose contents would be lost."""


def let_go(tensor: Tensor) -> None:
    """Give back the memory that a tensor of a `MappedFile` took when it was read. It may be read again, and is as the file has it:
    what was written into it is lost. Nothing happens to any other tensor, nor on a system that has no such call.
    """
    if not tensor.is_contiguous() or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = tensor.data_ptr()
    last = first + tensor.numel() * tensor.element_size()
    for memory in tuple(_MAPPED):
        if memory.start <= first and last <= memory.start + len(memory):
            memory.let_go(first, last)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """One under the other, along the first axis, in memory of their own, and what lay apart let go of."""
    out = torch.cat(list(tensors))
    for tensor in tensors:
        let_go(tensor)
    return out

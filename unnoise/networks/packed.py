"""Linear layers whose weights stay as a file has them, in few bits, and are unpacked at every call.

Held so, a network takes the memory of its file, which is mapped: none that the system could not have back. One layer's weights at
a time are unpacked, multiplied with and let go of. That costs the time of unpacking at every call, whatever the size of a picture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

AT_ONCE = 1 << 20
"""Weights that are unpacked at once: few enough to stay near the processor."""


class Packing(Protocol):
    """How bytes are unpacked. name: of the kind, in ASCII: the same bytes of another kind are other numbers."""

    @property
    def name(self) -> str: ...

    def __call__(self, kept: Sequence[Tensor], first: int, last: int) -> Tensor:
        """Rows first ... last - 1 of these bytes, (last - first, columns)."""


@dataclass(frozen=True)
class Rows:
    """Rows of a matrix as a file has them. kept: the bytes that say what they are, uint8."""

    count: int
    columns: int
    packing: Packing
    kept: tuple[Tensor, ...]

    def read(self, first: int, last: int) -> Tensor:
        return self.packing(self.kept, first, last)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(k.numel() for k in self.kept)


class PackedLinear(nn.Linear):
    """Answers as the layer it stands for. `weight` has its shape and precision alone; `unpacked` has the numbers.

    The bytes that are kept are buffers, and what kind they are, so that a state dict tells networks apart by them.
    """

    def __init__(self, layer: nn.Linear, rows: Sequence[Rows], dtype: torch.dtype) -> None:
        """rows: of its weight, one under the other. dtype: what they are unpacked to."""
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.weight = torch.empty(layer.weight.shape, dtype=dtype, device="meta")
        self._pieces = tuple((r.count, r.packing, len(r.kept)) for r in rows)
        for i, kept in enumerate(k for r in rows for k in r.kept):
            self.register_buffer(f"kept{i}", kept)
        for i, r in enumerate(rows):
            self.register_buffer(f"kind{i}", torch.tensor([*r.packing.name.encode()], dtype=torch.uint8))

    def unpacked(self) -> Tensor:
        """(out, in)"""
        out, at, step, used = torch.empty_like(self.weight, device="cpu"), 0, max(1, AT_ONCE // self.in_features), 0
        for count, packing, n in self._pieces:
            kept = [self.get_buffer(f"kept{i}") for i in range(used, used + n)]
            for first in range(0, count, step):
                last = min(first + step, count)
                out[at + first : at + last] = packing(kept, first, last)
            at, used = at + count, used + n
        return out

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        """What is unpacked gets the precision that a module's numbers are given."""
        super()._apply(fn, recurse)
        self.weight = torch.empty(self.weight.shape, dtype=fn(torch.empty(0, dtype=self.weight.dtype)).dtype, device="meta")
        return self

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.unpacked(), self.bias)


def weight_of(layer: nn.Module) -> Tensor:
    """A layer's weights, unpacked where they are packed."""
    weight = layer.unpacked() if isinstance(layer, PackedLinear) else layer.weight
    assert isinstance(weight, Tensor)
    return weight


def pack(network: nn.Module, packed: Mapping[str, Sequence[Rows]], dtype: torch.dtype) -> None:
    """Puts such layers in the place of a network's own, by their names. What cannot be unpacked is found now: a row of each is."""
    for name, rows in packed.items():
        for r in rows:
            r.read(0, 1)
        parent, _, child = name.rpartition(".")
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        setattr(network.get_submodule(parent), child, PackedLinear(layer, rows, dtype))


def has_packed(network: nn.Module) -> bool:
    """Whether any of its layers is packed."""
    return any(isinstance(m, PackedLinear) for m in network.modules())

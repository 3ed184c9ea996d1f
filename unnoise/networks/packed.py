"""Linear layers whose weights stay as a file has them, in few bits, and are unpacked at every call.

Held so, a network takes the memory of its file, which is mapped: none that the system could not have back. One layer's weights at
a time are unpacked, multiplied with and let go of. That costs the time of unpacking at every call, whatever the size of a picture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

AT_ONCE = 1 << 20
"""Weights that are unpacked at once: few enough to stay near the processor."""


@dataclass(frozen=True)
class Rows:
    """Rows of a matrix as a file has them.

    read: rows first ... last - 1 of these, (last - first, columns), unpacked. kept: the bytes that say what they are, uint8.
    """

    count: int
    columns: int
    read: Callable[[int, int], Tensor]
    kept: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(k.numel() for k in self.kept)


class PackedLinear(nn.Linear):
    """Answers as the layer it stands for. `weight` has its shape and precision alone; `unpacked` has the numbers.

    The bytes that are kept are buffers, so that a state dict tells networks apart by them.
    """

    def __init__(self, layer: nn.Linear, rows: Sequence[Rows], dtype: torch.dtype) -> None:
        """rows: of its weight, one under the other. dtype: what they are unpacked to."""
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.weight = torch.empty(layer.weight.shape, dtype=dtype, device="meta")
        self._rows = tuple(rows)
        for i, kept in enumerate(k for r in rows for k in r.kept):
            self.register_buffer(f"kept{i}", kept)

    def unpacked(self) -> Tensor:
        """(out, in)"""
        out, at, step = torch.empty_like(self.weight, device="cpu"), 0, max(1, AT_ONCE // self.in_features)
        for rows in self._rows:
            for first in range(0, rows.count, step):
                last = min(first + step, rows.count)
                out[at + first : at + last] = rows.read(first, last)
            at += rows.count
        return out

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

"""A network's pass in three parts, the middle one of which takes nearly all the time and changes slowly along a walk.

    network(x, noise_level, cond) = leave(e, deep(e)),   e = enter(x, noise_level, cond)

Transformers enter with their patches, and their blocks are deep. A U-Net enters with its first layer; deep is all but the last
block of the way up, which sees that layer's features beside the deep ones (DeepCache, Ma et al. 2023, 2312.00858, section 3.2).
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


class Entered(Protocol):
    """What a network knows before its deep part."""

    @property
    def base(self) -> Tensor | None:
        """What the deep part adds something to, of the shape of what it gives; None where that stands by itself."""


@runtime_checkable
class Splitting(Protocol):
    """A network of one tensor in three parts. `Any` is its own kind of Entered."""

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Any: ...

    def deep(self, entered: Any) -> Tensor: ...

    def leave(self, entered: Any, deep: Tensor) -> Tensor: ...

"""What is noised, what the network is told, and the few helpers that treat one tensor and a mapping of tensors alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unnoise.core.errors import InputError

State = Tensor | Mapping[str, Tensor]
"""What is noised: (B, ...), or a mapping of such tensors for data of several fields (positions + atom types)."""

Cond = Mapping[str, Tensor]
"""What the network is told; every entry has a leading batch axis.

The names that networks understand: `vector` (B, D), one summary a sample; `tokens` (B, L, D), a sequence for
cross-attention; `mask` (B, L), True where a token counts; `picture` (B, C', H, W), laid beside the channels of a state of the same
size (a layout, a low-resolution picture, a masked one); and what adapters add (`networks.steering`).
"""

Shape = tuple[int, ...] | Mapping[str, tuple[int, ...]]
"""The shape of one sample, without the batch axis; a mapping for data of several fields."""


@dataclass(frozen=True)
class Batch:
    """A training batch: clean data `x` (B, ...) and its condition."""

    x: State
    cond: Cond = field(default_factory=dict)


def expand(c: Tensor, x: Tensor) -> Tensor:
    """A coefficient a sample, (B,), shaped (B, 1, ..., 1) and in the dtype and on the device of x: (B, ...)."""
    return c.to(device=x.device, dtype=x.dtype).reshape(-1, *([1] * (x.ndim - 1)))


def over_dimensions(a: Tensor) -> Tensor:
    """The mean of each sample: (B, ...) -> (B,)."""
    return a.flatten(1).mean(1)


def tree_map(f: Callable[..., Tensor], *states: State) -> State:
    """f applied to a tensor, or to every field of a mapping (all `states` have the same fields)."""
    first = states[0]
    if isinstance(first, Tensor):
        return f(*states)
    return {k: f(*(s[k] for s in states if not isinstance(s, Tensor))) for k in first}


def fields_of(x: State) -> Mapping[str, Tensor]:
    """The state as a mapping. Raises InputError for a single tensor."""
    if isinstance(x, Tensor):
        raise InputError("data of several fields is a mapping of tensors; this is one tensor")
    return x


def leaf(x: State) -> Tensor:
    """Any one tensor of the state: for its device and its batch size."""
    return x if isinstance(x, Tensor) else next(iter(x.values()))


def batch_size(x: State) -> int:
    return leaf(x).shape[0]


def shape_of(x: State) -> Shape:
    """The shape of one sample of the batch."""
    return tuple(x.shape[1:]) if isinstance(x, Tensor) else {k: tuple(v.shape[1:]) for k, v in x.items()}


def times_like(t: float, x: State) -> Tensor:
    """The time t for every sample of x: (B,) in float64, on the device of x."""
    return torch.full((batch_size(x),), t, dtype=torch.float64, device=leaf(x).device)

"""The loop: every sampler is a frozen value with `start` and `step`; `sample` walks x down the times.

Times are per sample and the sampler's state is explicit and made of tensors with a leading batch axis, so samples at
different times (video frames, requests that arrived later) can share a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Generic, TypeVar

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.processes import Process
from unnoise.core.random import Streams
from unnoise.core.state import State, batch_size, leaf

S = TypeVar("S")
Watch = Callable[[int, int, State], None]
"""Called after every step with (steps done, steps in all, x)."""


class Sampler(ABC, Generic[S]):
    """A frozen dataclass; holds nothing of a run."""

    @abstractmethod
    def start(self, x: State) -> S:
        """The sampler's memory before the first step."""

    @abstractmethod
    def step(self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: S, rng: Streams) -> tuple[State, S]:
        """From times t (B,) to s (B,), s < t <= 1; s may be 0. `rng` stands at this step."""

    @abstractmethod
    def calls(self, steps: int) -> int:
        """Network calls that a walk of `steps` steps down to t = 0 makes."""


@torch.no_grad()
def sample(
    denoise: Denoise,
    process: Process,
    x: State,
    times: Tensor,
    sampler: Sampler[S],
    rng: Streams,
    watch: Watch | None = None,
) -> State:
    """Walk x, which stands at times[0], down to times[-1].

    times: (N+1,) or (N+1, B), falling, in [0, 1]. Step i draws from `rng.at(i)`. Raises InputError for times that do not fall.
    """
    if times.ndim not in (1, 2) or len(times) < 2 or not bool((times[1:] < times[:-1]).all()):
        raise InputError("sampling times must fall strictly, from noise (at most 1) to data (at least 0)")
    if not bool((times[0] <= 1).all() and (times[-1] >= 0).all()):
        raise InputError(f"sampling times must lie in [0, 1]; these run from {times[0]} to {times[-1]}")
    n = batch_size(x)
    times = times.to(device=leaf(x).device, dtype=torch.float64)
    state = sampler.start(x)
    for i, (t, s) in enumerate(pairwise(times)):
        x, state = sampler.step(denoise, process, x, t.expand(n), s.expand(n), state, rng.at(i))
        if watch is not None:
            watch(i + 1, len(times) - 1, x)
    return x

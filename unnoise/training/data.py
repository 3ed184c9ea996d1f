"""Data for training: batch k is a pure function of (seed, k), so a run that was interrupted anywhere goes on exactly.

Row order: the i-th row drawn since the start (i = k B + j in batch k of B rows) is row perm_e[i mod n] of the set, with
e = floor(i / n) the epoch and perm_e a permutation drawn from (seed, e) alone. Its random stream is derived from (seed, i).
Rank r of W takes the r-th of W equal slices of every batch; nothing else depends on W.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from types import TracebackType
from typing import Protocol, Union

import numpy as np
import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.random import Streams, derive

Batch = Mapping[str, Union[Tensor, "Batch"]]
"""{"x": Tensor or mapping of tensors, "cond": mapping of tensors}; every tensor has a leading row axis."""


class DataSet(Protocol):
    """Rows that can be drawn by number."""

    def __len__(self) -> int: ...

    def batch(self, rows: Sequence[int], rng: Streams) -> Batch:
        """These rows, on the CPU; called from one other thread than the rest.

        rng: one stream a row, for flips, crops and dropped conditions.
        """
        ...


class Order:
    """Which rows make up which batch."""

    def __init__(self, rows: int, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if rows < 1:
            raise InputError("the data set has no rows; training needs at least one")
        if batch % world:
            raise InputError(f"a batch of {batch} rows cannot be shared by {world} processes; make it a multiple of {world}")
        self._rows, self._seed = rows, seed
        self._batch, self._mine, self._first = batch, batch // world, rank * (batch // world)
        self._permutation = lru_cache(maxsize=2)(self._permute)  # a batch seldom spans more than two epochs

    def _permute(self, epoch: int) -> np.ndarray:
        key = np.array([derive(self._seed, "order"), epoch], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(self._rows)

    def rows(self, k: int) -> list[int]:
        """This rank's row numbers in batch k."""
        first = k * self._batch + self._first
        epochs, places = np.divmod(np.arange(first, first + self._mine), self._rows)
        return [int(self._permutation(int(e))[p]) for e, p in zip(epochs, places)]

    def streams(self, k: int) -> Streams:
        """One stream for each of `rows(k)`."""
        return Streams.of(derive(self._seed, "rows"), self._mine, first=k * self._batch + self._first)


class Loader:
    """Batches by number; the next one is made by one background thread while this one is being trained on.

    An exception of the data set comes out of `get`, in the thread that calls it.
    """

    def __init__(self, data: DataSet, order: Order) -> None:
        self._data, self._order = data, order
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="unnoise-data")
        self._ahead: tuple[int, Future[Batch]] | None = None

    def _make(self, k: int) -> Batch:
        return self._data.batch(self._order.rows(k), self._order.streams(k).scoped("data"))

    def get(self, k: int) -> tuple[Batch, Streams]:
        """Batch k and the streams for its task."""
        if self._ahead is None or self._ahead[0] != k:
            self._ahead = (k, self._thread.submit(self._make, k))
        batch = self._ahead[1].result()
        self._ahead = (k + 1, self._thread.submit(self._make, k + 1))
        return batch, self._order.streams(k).scoped("task")

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


def take(batch: Batch, rows: slice, device: torch.device) -> Batch:
    """Some rows of a batch, on a device."""
    return {
        name: value[rows].to(device, non_blocking=True) if isinstance(value, Tensor) else take(value, rows, device)
        for name, value in batch.items()
    }

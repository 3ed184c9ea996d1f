"""Shared by all tests: one thread a process (pytest-xdist uses the cores), and where the real data sets lie."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unnoise.core import hashing
from unnoise.core.hashing import tensors_hash

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of development data sets; tests that want one skip without it."""
    where = os.environ.get("UNNOISE_DATA", "")
    if not where or not Path(where).is_dir():
        pytest.skip("UNNOISE_DATA does not name a folder of data sets")
    return Path(where)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every sha256 of all weights."""
    calls: list[int] = []

    def hashed(tensors: dict[str, Tensor]) -> str:
        calls.append(len(tensors))
        return tensors_hash(tensors)

    monkeypatch.setattr(hashing, "tensors_hash", hashed)
    return calls

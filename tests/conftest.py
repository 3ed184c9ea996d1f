"""Shared by all tests: one thread a process (pytest-xdist uses the cores), and where the real data sets lie."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of development data sets; tests that want one skip without it."""
    where = os.environ.get("UNNOISE_DATA", "")
    if not where or not Path(where).is_dir():
        pytest.skip("UNNOISE_DATA does not name a folder of data sets")
    return Path(where)

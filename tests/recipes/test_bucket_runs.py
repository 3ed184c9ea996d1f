"""From pictures of several shapes to a model that draws them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.recipes.options import Options
from unnoise.recipes.train import plan, train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, size in enumerate([(20, 40), (30, 15), (24, 24), (40, 20)]):
        Image.fromarray(np.full((*size, 3), 60 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_a_run_on_buckets_goes_through_and_draws_other_shapes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("run") / "run"
    model = train(folder, out, size=16, buckets=4, steps=3, batch=3, width=16, depth=1)
    assert model.sample(n=2, height=12, width=20).data.shape[1:3] == (12, 20)
    assert model.sample(n=1).data.shape[1:3] == (16, 16)


def test_recipes_for_data_of_one_size_refuse_buckets(folder: Path) -> None:
    with pytest.raises(InputError, match="recipe 'autoencoder' takes data of one size"):
        plan(str(folder), Options(size=16, buckets=4), "autoencoder")

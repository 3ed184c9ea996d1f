"""From pictures of several shapes to a model that draws them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unnoise.checkpoints.codec import save_codec
from unnoise.core.errors import InputError
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.networks.autoencoder import deep_compression
from unnoise.networks.bottlenecks import KLConfig
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


def test_a_latent_model_on_buckets(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its codec was trained before, on squares; states of other shapes are encoded as they come."""
    out, small = tmp_path_factory.mktemp("run"), {"size": 16, "steps": 2, "batch": 3, "width": 16, "depth": 1}
    codec = LatentsConfig(16, 16, 1, deep_compression(1, 4, KLConfig(channels=4), width=4)).build()
    save_codec(codec, out / "codec", "a test's")
    model = train(folder, out / "run", recipe="latent", codec=str(out / "codec"), buckets=4, **small)
    assert model.sample(n=2, height=12, width=20).data.shape[1:3] == (12, 20)
    assert not (out / "run" / "latents.safetensors").exists()
    with pytest.raises(InputError, match="--buckets: a codec is trained on pictures of one size; train it first"):
        plan(str(folder), Options(size=16, buckets=4), "latent")


def test_recipes_for_data_of_one_size_refuse_buckets(folder: Path) -> None:
    with pytest.raises(InputError, match="recipe 'autoencoder' takes data of one size"):
        plan(str(folder), Options(size=16, buckets=4), "autoencoder")

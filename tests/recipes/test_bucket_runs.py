"""From pictures of several shapes to a model that draws them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.checkpoints.codec import load_codec, save_codec
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.latents import Latents, LatentsConfig
from unnoise.modalities.image.reading import read_pictures
from unnoise.networks.autoencoder import deep_compression
from unnoise.networks.bottlenecks import KLConfig
from unnoise.recipes.latent_cache import cached_latents
from unnoise.recipes.options import Options
from unnoise.recipes.sources import source_of
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


def test_a_latent_model_on_buckets(folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its codec was trained before, on squares. Training reads the same from the states kept of every shape as from pictures."""
    out, small = tmp_path_factory.mktemp("run"), {"size": 16, "steps": 2, "batch": 3, "width": 16, "depth": 1}
    codec = LatentsConfig(16, 16, 1, deep_compression(1, 4, KLConfig(channels=4), width=4)).build()
    save_codec(codec, out / "codec", "a test's")
    model = train(folder, out / "run", recipe="latent", codec=str(out / "codec"), buckets=4, flip=True, **small)
    assert model.sample(n=2, height=12, width=20).data.shape[1:3] == (12, 20)
    data = read_pictures(folder, PictureOptions(size=16, buckets=4, flip=True), progress=False)
    plain = data.training(model.codec, model.conditioner)
    file, fingerprint = out / "run" / "latents.safetensors", source_of(str(folder)).open(progress=False).fingerprint()
    with monkeypatch.context() as no_encoder:
        no_encoder.setattr(Latents, "encode", None)  # made by the run: only read
        kept = cached_latents(load_codec(out / "codec"), data, fingerprint, file, progress=False)
    seen = set()
    for first in range(len(data)):
        rows, rng = [first, *range(len(data))], Streams.of(first, 1 + len(data))
        expected, x = (training.batch(rows, rng)["x"] for training in (plain, replace(plain, states=kept)))
        assert isinstance(x, torch.Tensor)
        torch.testing.assert_close(x, expected, atol=5e-3, rtol=2e-3)
        seen.add(tuple(x.shape[2:]))
    assert len(seen) == 3, "wide, high and square"
    with pytest.raises(InputError, match="--buckets: a codec is trained on pictures of one size; train it first"):
        plan(str(folder), Options(size=16, buckets=4), "latent")


def test_recipes_for_data_of_one_size_refuse_buckets(folder: Path) -> None:
    with pytest.raises(InputError, match="recipe 'autoencoder' takes data of one size"):
        plan(str(folder), Options(size=16, buckets=4), "autoencoder")

"""What is told of sizes is what Pillow did to the picture, and samples told of a small original are as small ones are."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from unnoise.core.codec import UnconditionalConfig
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.loading import load
from unnoise.modalities.conditioning import TextConfig
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.decode import Target
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.sizes import SizedNamesConfig, SizedWordsConfig, tell_apart, told_size
from unnoise.model import DiffusionModel
from unnoise.networks.embedding import size_features
from unnoise.networks.text import TextEncoderConfig
from unnoise.recipes.options import Options
from unnoise.recipes.train import plan, train

SMALL, LARGE = 6, 24


def target(height: int, width: int, pad: bool = False) -> Target:
    return Target(height, width, 1, (255, 255, 255), pad)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (40, 90), (7, 5), (17, 64), (300, 200)])
def test_what_is_told_is_what_pillow_does(height: int, width: int) -> None:
    """A ramp along each side, cropped by Pillow, says where the crop begins."""
    h, w = 16, 20
    original_h, original_w, top, left, *told = told_size(height, width, target(h, w))
    assert told == [h, w]
    scale = max(h / height, w / width)
    for ramp, (size, axis, first) in ((np.mgrid[:height, :width][i], ((height, width)[i], i, (top, left)[i])) for i in (0, 1)):
        shown = ImageOps.fit(Image.fromarray(ramp.astype(np.float32), "F"), (w, h), method=Image.Resampling.BOX)
        middle = np.asarray(shown).mean(1 - axis)[(h, w)[axis] // 2]  # a place in the original, in its pixels
        assert (middle + 0.5) * scale - ((h, w)[axis] // 2 + 0.5) == pytest.approx(first, abs=1.01 + scale / 2)
        assert size > 0
    assert (original_h, original_w) == (min(height, round(height * scale)), min(width, round(width * scale)))


def test_pictures_that_are_padded_lose_nothing_and_large_ones_count_as_they_are_shown() -> None:
    assert told_size(100, 50, target(20, 20, pad=True)) == (20, 10, 0, 0, 20, 20)
    assert told_size(100, 50, target(20, 20)) == (40, 20, 10, 0, 20, 20)
    assert told_size(5, 10, target(20, 20)) == (5, 10, 0, 10, 20, 20)
    assert told_size(20, 20, target(20, 20)) == (20, 20, 0, 0, 20, 20)  # what sampling asks for


def test_sizes_are_told_where_they_differ_and_some_are_whole() -> None:
    whole, small = told_size(30, 30, target(20, 20)), told_size(9, 9, target(20, 20))
    assert tell_apart([whole, small])
    assert not tell_apart([whole, told_size(90, 90, target(20, 20))])  # both as large as they are shown
    assert not tell_apart([small, told_size(8, 8, target(20, 20))])  # none is what would be asked for
    for count, enough in ((19, True), (20, False)):  # one in twenty is enough to learn what is asked for
        assert tell_apart([whole] + [small] * count) == enough


def test_the_vector_is_the_words_and_then_the_size() -> None:
    torch.manual_seed(0)
    words = TextConfig.of(["red", "blue"], TextEncoderConfig(width=12, depth=1, heads=2, buckets=32))
    sized = SizedWordsConfig(words, 8, 16, 20).build().eval()
    prepared = sized.prepare(["red", None])
    assert prepared["size"].tolist() == [[16, 20, 0, 0, 16, 20]] * 2
    told, plain = sized(prepared), sized.inner(sized.inner.prepare(["red", None]))
    assert torch.equal(told["vector"][:, :12], plain["vector"])
    assert torch.equal(told["tokens"], plain["tokens"])
    assert torch.equal(told["vector"][:, 12:], sized.size(size_features(torch.tensor([[16, 20, 0, 0, 16, 20]] * 2), 64)))
    away = sized.prepare_away([None])
    assert away.keys() == prepared.keys()
    assert torch.equal(away["ids"][0], prepared["ids"][1])
    alone = SizedNamesConfig(UnconditionalConfig(), 8, 16, 20).build()
    assert alone(alone.prepare([None]))["vector"].shape == (1, 8)
    with pytest.raises(InputError, match="at least 1"):
        alone.asked(1, original=(0, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Originals of 6 pixels are dark, those of 24 light: a colour that the size alone tells."""
    place = tmp_path_factory.mktemp("pictures")
    for i in range(8):
        for side, grey in ((SMALL, 40), (LARGE, 210)):
            Image.fromarray(np.full((side, side), grey, dtype=np.uint8)).save(place / f"{side}-{i}.png")
    return place


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    torch.manual_seed(0)
    return train(folder, tmp_path_factory.mktemp("run") / "run", size=12, steps=120, batch=16, width=32, depth=1, lr=5e-3)


@pytest.mark.parametrize("recipe", ["unet", "latent"])
def test_other_recipes_tell_sizes_too(folder: Path, recipe: str) -> None:
    model = plan(str(folder), Options(size=12, width=32, depth=1), recipe).run.model
    assert isinstance(model.conditioner, SizedNamesConfig)
    assert model.network.vector_dim == model.conditioner.dim


def test_batches_tell_what_each_picture_was(folder: Path) -> None:
    data = read_pictures(folder, PictureOptions(size=12), progress=False)
    some = data.take([i for i in range(len(data)) if i % 3])
    training = some.training(some.codec().build(), SizedNamesConfig(UnconditionalConfig(), 8, 12, 12).build())
    batch = training.batch(range(len(some)), Streams.of(0, len(some)))
    assert isinstance(batch["cond"], dict)
    for name, size in zip(some.names, batch["cond"]["size"].tolist()):
        shown = min(12, int(name.split("-")[0]))
        assert size == [shown, shown, 0, 0, 12, 12]


def test_samples_are_as_pictures_of_the_told_size_are(model: DiffusionModel, tmp_path: Path) -> None:
    """The data's exact law given the size is one grey; the two are 170 apart."""
    light, dark = (model.sample(n=6, seed=3, original=o).data.float() for o in (None, (SMALL, SMALL)))
    assert (light - 210).abs().flatten(1).mean(1).max() < 30
    assert (dark - 40).abs().flatten(1).mean(1).max() < 30
    model.save(tmp_path / "model")
    again = load(tmp_path / "model").sample(n=6, seed=3, original=(SMALL, SMALL))
    assert torch.equal(again.data.float(), dark)
    assert model.sample(n=1, height=8, width=12).data.shape[1:3] == (8, 12)


def test_a_model_that_is_told_no_sizes_is_as_it_was(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    for file in folder.glob(f"{LARGE}-*.png"):
        (tmp_path / "large" / file.name).write_bytes(file.read_bytes())
    planned = plan(str(tmp_path / "large"), Options(size=12, width=16, depth=1))
    assert planned.run.model.conditioner == UnconditionalConfig()
    with pytest.raises(InputError, match="told no sizes"):
        planned.run.model.build().sample(original=(4, 4))

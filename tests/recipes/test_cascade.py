"""Models that go on from one another: against what an untrained enlarger must give, and that a sample is the same in any batch."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_config, tiny_model

from unnoise.core.errors import InputError
from unnoise.core.preconditioning import AboutPicture, Data
from unnoise.core.random import Streams
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import InMemory, PictureData
from unnoise.modalities.image.enlarging import Enlarging, EnlargingConfig
from unnoise.model import DiffusionModel
from unnoise.networks.patched import PatchedConfig
from unnoise.networks.unet import UNetConfig
from unnoise.recipes.cascade import Cascade, go_on
from unnoise.recipes.evaluate import evaluate
from unnoise.recipes.run import Preview, preview_samples
from unnoise.recipes.sources import OpenPictures
from unnoise.recipes.train import train


def enlarger(strength: float, side: int = 16) -> DiffusionModel:
    """Untrained: it adds nothing to the picture that it is told, so that is what it draws."""
    tiny = tiny_config()
    conditioner = EnlargingConfig(tiny.conditioner, PixelsConfig(side, side, 1), 2, 32, 32, strength=strength)
    network = PatchedConfig(
        UNetConfig(4, None, 8, (1,), 1, (), (0,), vector_dim=32, token_dim=32, head_dim=4, groups=4, picture_channels=4), 2
    )
    config = replace(tiny, codec=conditioner.large, conditioner=conditioner, network=network, preconditioner=AboutPicture(Data()))
    torch.manual_seed(1)
    return config.build()


def test_an_untrained_enlarger_draws_the_enlarged_picture() -> None:
    base = tiny_model()
    small = base.sample(["one", None], 2, seed=3)
    large = Cascade((base, enlarger(0.0), enlarger(0.0))).sample(["one", None], 2, seed=3)  # the same one twice: any size
    assert large.seeds == small.seeds
    assert large.prompts == small.prompts
    assert large.data.shape == (4, 32, 32, 1)
    for a, b in zip(small.data, large.data):
        x = Image.fromarray((a[..., 0].numpy() / 127.5 - 1).astype(np.float32), "F")
        for side in (16, 32):
            x = Image.fromarray((np.asarray(x) * 127.5 + 127.5).round().clip(0, 255).astype(np.float32) / 127.5 - 1, "F")
            x = x.resize((side, side), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(b[..., 0], (np.asarray(x) * 127.5 + 127.5).clip(0, 255), atol=1.01)


def test_a_sample_is_the_same_alone_and_in_a_batch_and_stages_draw_their_own() -> None:
    base, stage = tiny_model(), enlarger(0.5)
    whole = Cascade((base, stage)).sample("two", 3, seed=5)
    alone = Cascade((base, stage)).sample("two", sample_seeds=whole.seeds[1:2])
    assert int((alone.data[0].int() - whole.data[1].int()).abs().max()) <= 1
    split = Cascade((base, stage)).sample("two", 3, seed=5, batch=2)
    assert int((split.data.int() - whole.data.int()).abs().max()) <= 1
    same = replace(whole, data=base.sample("two", 1, seed=5).data.expand(3, -1, -1, -1), codec=base.codec)
    again = go_on(same, [stage])
    assert int((again.data[0].int() - again.data[1].int()).abs().max()) > 20  # the noise of another sample


def test_what_cannot_follow_is_refused() -> None:
    with pytest.raises(InputError, match="goes on from no other model"):
        Cascade((tiny_model(), tiny_model()))
    with pytest.raises(InputError, match="at least one model"):
        Cascade(())
    coloured = replace(tiny_config(), codec=PixelsConfig(8, 8, 3)).codec.build()
    with pytest.raises(InputError, match="enlarges grey pictures; the model before it makes pictures in colour"):
        enlarger(0.0).conditioner.follows(coloured)
    with pytest.raises(InputError, match="has none to enlarge"):
        enlarger(0.0).sample(n=2)
    with pytest.raises(InputError, match="one each is needed"):
        enlarger(0.0).sample(n=2, given={"strength": torch.zeros(1)})


def test_trained_by_the_recipe_and_saved(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "set.npz", x=rng.integers(0, 256, (24, 16, 16, 1), dtype=np.uint8))
    stage = train(tmp_path / "set.npz", tmp_path / "run", recipe="super-resolution", steps=2, batch=4, width=8, depth=1)
    small = torch.from_numpy(rng.integers(0, 256, (2, 8, 8, 1), dtype=np.uint8))
    base = tiny_model().sample(n=2)
    made = go_on(replace(base, data=small), [stage])
    assert made.data.shape == (2, 16, 16, 1)
    assert made.settings["then"] == [str(tmp_path / "run" / "model")]
    assert made.settings["then_hash"] == [stage.hash()]
    with pytest.raises(InputError, match=r"run: it enlarges what another model makes; draw with .*, and evaluate those samples"):
        evaluate(tmp_path / "run", tmp_path / "set.npz", tmp_path / "report")


def test_sheets_of_a_stage_show_what_it_makes_of_real_pictures() -> None:
    """An untrained enlarger at strongest 0: the pictures themselves, small and large again."""
    stage = enlarger(0.0)
    assert isinstance(stage.conditioner, Enlarging)
    stage.conditioner.config = replace(stage.conditioner.config, strongest=0.0)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 1), dtype=np.uint8)
    said = tuple((w,) for w in ("one", "two", "three", "one", "two", "three", "one"))
    opened = OpenPictures(PictureData(InMemory(pixels), 16, 16, 1, tuple("abcdefg"), said, None, (), ()))
    samples = preview_samples(stage, Preview(("one", "two"), n=2), opened)
    assert samples.prompts == ("one", "two", "one", "three")  # rows 0, 1, 3 and 5
    expected = stage.codec.decode(stage.conditioner.from_data(pixels[[0, 1, 3, 5]], Streams.of(0, 4))["picture"])
    assert int((samples.data.int() - expected.int()).abs().max()) <= 1

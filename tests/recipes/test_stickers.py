"""The recipe of the model that ships, as a toy: three stages, a model that is told words and keeps transparency."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.image.sticker_set import Mix, read_stickers
from unnoise.modalities.words.distilled import NOTHING, PADDING, DistilledConfig
from unnoise.modalities.words.pieces import UNKNOWN
from unnoise.networks.word_encoder import WordEncoderConfig
from unnoise.recipes.autoencoder import AutoencoderRun, AutoencoderTask
from unnoise.recipes.options import Options
from unnoise.recipes.sources import OpenPictures, PictureSource
from unnoise.recipes.stickers import stickers
from unnoise.recipes.text_encoders import load_distilled, save_distilled

NAMES = ("cup", "pear", "boat", "drum", "kite", "lamp")


def opened(folder: Path, size: int = 16) -> OpenPictures:
    rows = []
    for i, name in enumerate(NAMES):
        image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
        image.paste((30 + 30 * i, 60, 200, 255), (4, 4, 28, 28))
        image.save(folder / f"{i}.png")
        rows.append({"file": f"{i}.png", "name": name, "vendor": "noto", "keywords": [], "group": "objects"})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return OpenPictures(read_stickers([folder], size, Mix(compositions=6, scenes=0, held_out=0)))


@pytest.fixture
def set_(tmp_path) -> OpenPictures:
    return opened(tmp_path)


@pytest.fixture
def words(tmp_path) -> str:
    torch.manual_seed(0)
    pieces = [PADDING, NOTHING, UNKNOWN, *NAMES, *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    encoder = WordEncoderConfig(len(pieces), 12, rank=8, width=12, depth=1, heads=1)
    save_distilled(tmp_path / "words", DistilledConfig(encoder, "\n".join(pieces)).build())
    return str(tmp_path / "words")


def test_a_codec_then_a_model_that_is_told_words(set_, words, tmp_path):
    options = Options(steps=5, batch=4, width=16, depth=4, text_encoder=words)  # layers begin at zero, one behind another
    run = stickers(set_, PictureSource("stickers"), options)
    assert isinstance(run.first, AutoencoderRun)
    assert run.first.codec.latent_channels == run.model.network.channels
    short = replace(run.first.losses, features=0)
    run = replace(run, first=replace(run.first, losses=short, train=replace(run.first.train, steps=2, batch=4)))
    run = replace(run, preview=replace(run.preview, prompts=("cup",), n=1))
    model = run.fit(set_, tmp_path / "run", resume=False)
    made = model.sample(["a pear", "zebra"], n=1, steps=2, guidance=2.0)
    assert made.data.shape == (2, 16, 16, 4)
    taught = load_distilled(words).state_dict()
    for name, value in model.conditioner.encoder.state_dict().items():
        assert torch.equal(value, taught[f"encoder.{name}"])
    assert model.conditioner.learnt[0].weight.any()


@pytest.mark.parametrize(("size", "codes"), [(16, 8), (17, 9), (48, 6), (64, 8), (72, 9), (96, 6), (100, 7), (512, 16)])
def test_every_size_of_stickers_has_a_codec(size, codes, words, tmp_path):
    """About 8 x 8 codes, each a power of two pixels wide, at most 32; the loss, with its halved codes, has a gradient."""
    data = opened(tmp_path, size)
    run = stickers(data, PictureSource("stickers"), Options(text_encoder=words))
    codec = run.model.codec
    assert codec.build().shape()[1:] == (codes, codes)
    assert codec.latent_channels == (16 if size < 90 else 32)
    if size == 64:
        assert (codec.autoencoder.factor, codec.latent_channels) == (8, 16)  # as the model that ships
    if size < 90:
        task = AutoencoderTask(codec, run.first.losses, None)
        x = codec.build().pixels.encode(torch.from_numpy(data.pictures.pictures(range(8))))
        task({"x": x}, Streams.of(0, 8))["loss"].backward()
        assert float(task.autoencoder.out.weight.grad.abs().sum()) > 0


def test_pictures_without_transparency_are_refused(set_, words):
    opaque = replace(set_, pictures=replace(set_.pictures, channels=3))
    with pytest.raises(InputError, match="transparent"):
        stickers(opaque, PictureSource("photos"), Options(text_encoder=words))

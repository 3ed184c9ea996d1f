"""--spelling: a model told letters one by one, around any encoder of words; saved, loaded, and drawing what the letters say."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.loading import load
from unnoise.modalities.words.spelling import SpelledConfig
from unnoise.model import DiffusionModel
from unnoise.recipes.options import Options
from unnoise.recipes.train import plan, train

WORDS = {"AB": 30, "BA": 225}
"""A grey for each word: their letters are the same, their places are not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    for i in range(8):
        for word, grey in WORDS.items():
            Image.fromarray(np.full((8, 8), grey, dtype=np.uint8)).save(place / f"{word}-{i}.png")
            (place / f"{word}-{i}.txt").write_text(f'{i} "{word}"')
    return place


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    return train(folder, tmp_path_factory.mktemp("run") / "run", spelling=True, steps=80, batch=16, width=32, depth=1, lr=3e-3)


def test_what_is_saved_is_loaded_and_the_order_of_letters_decides(model: DiffusionModel, tmp_path: Path) -> None:
    """The truth given the word is one grey."""
    assert isinstance(model.config.conditioner, SpelledConfig)
    prompts = [f'{i} "{word}"' for word in WORDS for i in (0, 3)]
    made = model.sample(prompts, seed=1, guidance=1.0).data.float()
    for picture, word in zip(made, [word for word in WORDS for _ in range(2)]):
        assert (picture - WORDS[word]).abs().mean() < 30
    model.save(tmp_path / "model")
    assert torch.equal(load(tmp_path / "model").sample(prompts, seed=1, guidance=1.0).data.float(), made)
    letters = model.conditioner.prepare(['0 "BA"'])["spelled"][0, :, 0]
    assert "".join(model.config.conditioner.alphabet[i - 1] for i in letters) == "BA"
    with pytest.raises(InputError, match="writes 16 at most"):
        model.sample(f'"{"A" * 17}"')


def test_the_commands_that_are_offered_ask_for_the_captions_quotes_and_all(
    folder: Path, model: DiffusionModel, tmp_path: Path
) -> None:
    """As a shell takes them apart."""
    run = plan(str(folder), Options(spelling=True)).run
    said = shlex.split(run.afterwards(Path("my run")).removeprefix("draw with: "))
    assert said[:4] == ["unnoise", "sample", "my run", run.preview.prompts[0]]
    assert '"' in said[3]
    model.save(tmp_path / "model")
    card = next(line for line in (tmp_path / "model" / "README.md").read_text().splitlines() if "unnoise sample" in line)
    assert shlex.split(card)[3:5] == list(model.config.about.examples[:2])


def test_pictures_without_words_and_recipes_without_text_refuse(folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match="nothing is said of these pictures"):
        plan(str(tmp_path), Options(spelling=True))
    with pytest.raises(InputError, match="not for recipe 'retrieval'"):
        plan(str(folder), Options(spelling=True), "retrieval")
    assert isinstance(plan(str(folder), Options(spelling=True), "latent").run.model.conditioner, SpelledConfig)

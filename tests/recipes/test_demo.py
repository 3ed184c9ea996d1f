"""The demonstration, with next to no training: everything it promises is there, and nothing of others is overwritten."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from unnoise.core.errors import InputError
from unnoise.loading import load
from unnoise.recipes.demo import PROMPTS, demo, pictures_of


def test_everything_that_it_promises_is_there(tmp_path):
    model = demo(tmp_path / "demo", steps=2)
    made = {p.name for p in (tmp_path / "demo").iterdir()}
    assert made >= {"scenes.png", "stickers.png", "digits", "run", "samples", "digits.png", "path.png"}
    for name, prompts in PROMPTS.items():
        with Image.open(tmp_path / "demo" / f"{name}.png") as sheet:
            assert sheet.width >= 4 * 128
            assert sheet.height >= len(prompts) // 4 * 128
    assert model.sample("seven", n=2, steps=1).data.shape == (2, 8, 8, 1)
    with pytest.raises(InputError, match="overwrite"):
        demo(tmp_path / "demo", steps=2)


def test_what_a_prompt_counts_is_arranged():
    pictures, _ = pictures_of(load("stickers"), ["a green heart", "three strawberries"])
    assert [len(x) for x in pictures] == [128, 128]
    pieces, n = label(np.asarray(pictures[1])[..., 3] > 127)
    assert sum(np.bincount(pieces.ravel(), minlength=n + 1)[1:] > 50) == 3
    assert (np.asarray(pictures[0]).reshape(64, 2, 64, 2, 4) == np.asarray(pictures[0])[::2, None, ::2, None]).all()


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.txt"):
        demo(tmp_path, overwrite=True, steps=2)
    assert (tmp_path / "mine.txt").read_text() == "mine"

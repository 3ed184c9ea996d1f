"""The demonstration, with next to no training: everything it promises is there, and nothing of others is overwritten."""

import pytest
from PIL import Image

from unnoise.core.errors import InputError
from unnoise.recipes.demo import PROMPTS, demo


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


def test_a_folder_of_others_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.txt"):
        demo(tmp_path, overwrite=True, steps=2)
    assert (tmp_path / "mine.txt").read_text() == "mine"

"""By the command, pictures that are given are drawn in their own shape, and masks lie where they do in their pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from tiny import tiny_model

import unnoise
from unnoise.cli.again import command
from unnoise.cli.given import in_shape
from unnoise.cli.main import main
from unnoise.control.filling import Fill
from unnoise.control.sampling import Start
from unnoise.modalities.image.show import read_meta

pytest.importorskip("diffusers", reason="its folders are drawn by")
import checkpoints.foreign_pipelines as tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draws 16 x 16 pixels, two to a code."""
    at = tmp_path_factory.mktemp("shapes")
    return tiny.save(tiny.stable_diffusion(at / "parts"), at / "model")


def drawn(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_sizes() -> None:
    """Of the shape, and as large in all: 3:2 is 627.07 x 418.05 where 512 x 512 is."""
    assert in_shape((512, 512), 8, 512, 512) == in_shape((512, 512), 8, 64, 64) == (512, 512)
    assert in_shape((512, 512), 8, 2000, 3000) == (416, 624)
    assert in_shape((1024, 1024), 16, 3000, 2000) == (1248, 832)
    assert in_shape((16, 16), 2, 1, 10_000) == (2, 1600)


@pytest.mark.parametrize("by", ["start", "fill"])
def test_in_their_own_shape(by: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """32 x 8 pixels, and 64 x 16, which are made as small; the mask where it was; and again by what `info` tells."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 8, 3), np.uint8)
    mask = np.zeros((32, 8), bool)
    mask[20:, 2:6] = True
    Image.fromarray(pixels).save(tmp_path / "small.png")
    Image.fromarray(pixels).resize((16, 64), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    Image.fromarray(mask).resize((4, 16), Image.Resampling.NEAREST).save(tmp_path / "mask.png")
    model, data, masks = unnoise.load(folder), torch.as_tensor(pixels)[None], torch.as_tensor(mask)[None]
    begin: dict[str, Any] = {"start": Start(data, 0.5)} if by == "start" else {"fill": Fill(data, masks, 0.5)}
    expected = model.sample("a cat", 1, 3, steps=4, height=32, width=8, **begin).data[0].numpy()
    how = ["sample", str(folder), "a cat", "-n", "1", "--seed", "3", "--steps", "4", "--strength", "0.5"]
    shown = ["--mask", str(tmp_path / "mask.png")] if by == "fill" else []
    for size in ("small", "large"):
        main([*how, f"--{by}", str(tmp_path / f"{size}.png"), *shown, "--out", str(tmp_path / size)])
        made = next((tmp_path / size).glob("0*.png"))
        assert drawn(made).shape == (32, 8, 3)
        if size == "small":
            assert np.array_equal(drawn(made), expected)
            assert "--height 32 --width 8" in command(read_meta(made))
    assert "the middle" not in capsys.readouterr().err

    Image.fromarray(pixels.swapaxes(0, 1)).save(tmp_path / "wide.png")
    both = [f"--{by}", str(tmp_path / "small.png"), str(tmp_path / "wide.png")]
    if by == "fill":
        Image.fromarray(mask.T).save(tmp_path / "wide-mask.png")
        both += [*shown, str(tmp_path / "wide-mask.png")]
    told = refused([*how, "-n", "2", *both, "--out", str(tmp_path / "no")], capsys)
    assert f"--{by}: pictures of several shapes ({tmp_path}/small.png at 32 x 8, {tmp_path}/wide.png at 8 x 32" in told


def test_a_mask_of_another_shape_does_not_say_where(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (24, 12)).save(tmp_path / "a.png")
    Image.new("L", (12, 12), 255).save(tmp_path / "m.png")
    how = ["sample", str(folder), "a cat", "--fill", str(tmp_path / "a.png"), "--mask", str(tmp_path / "m.png")]
    told = refused([*how, "--out", str(tmp_path / "no")], capsys)
    assert f"{tmp_path}/m.png: a mask of 12 x 12 for a picture of 12 x 24 (height x width)" in told
    edge = np.zeros((12, 24), np.uint8)
    edge[:, :4] = 255
    Image.fromarray(edge).save(tmp_path / "m.png")
    told = refused([*how, "--height", "16", "--out", str(tmp_path / "no")], capsys)
    assert "m.png: nothing of this mask is white within the middle of it, which is drawn" in told


def test_a_model_of_pixels_says_what_it_cuts_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was taught one shape, and keeps to it."""
    tiny_model().save(tmp_path / "model")
    Image.new("L", (24, 12), 99).save(tmp_path / "a.png")
    how = ["sample", str(tmp_path / "model"), "one", "-n", "1", "--steps", "2", "--start", str(tmp_path / "a.png")]
    main([*how, "--out", str(tmp_path / "out")])
    assert f"{tmp_path}/a.png: of its 12 x 24 (height x width) the middle, in the shape of 8 x 8" in capsys.readouterr().err

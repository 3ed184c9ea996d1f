"""CLIP read by an earlier layer ("clip skip"), beside diffusers, which counts from its usual one, and on the command line."""

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
from unnoise.cli.main import main
from unnoise.core.errors import InputError
from unnoise.modalities.image.show import read_meta

pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny
from checkpoints.test_foreign_pictures import latents, same

USUAL = {"stable_diffusion": 1, "sdxl": 2, "sd3": 2}


@pytest.mark.parametrize("family", USUAL)
def test_as_in_diffusers(family: str, tmp_path: Path) -> None:
    """Which counts them from the usual one. What it leads away from it reads by the usual layer: so without guidance."""
    pipeline = getattr(tiny, family)(tmp_path / "parts")
    for name in ("text_encoder", "text_encoder_2"):
        if (encoder := pipeline.components.get(name)) is not None:
            for p in encoder.parameters():  # so that layers differ
                torch.nn.init.normal_(p, std=0.5, generator=torch.Generator().manual_seed(p.numel()))
    folder = tiny.save(pipeline, tmp_path / "model")
    if not hasattr(pipeline.text_encoder, "text_model"):  # transformers has moved what diffusers looks for there
        pipeline.text_encoder.__dict__["text_model"] = pipeline.text_encoder
    how: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 1.0}
    drawn = []
    for more in (None, 1):
        model = unnoise.load(folder, clip_skip=None if more is None else USUAL[family] + more)
        expected = latents(pipeline, model, clip_skip=more, **how)
        same(model, pipeline, expected, steps=3, guidance=1.0)
        drawn.append(expected)
    assert float((drawn[0] - drawn[1]).abs().max() / drawn[0].std()) > 0.01
    usual, said = (unnoise.load(folder, clip_skip=n).sample("a cat", 1, 3, steps=2).data for n in (None, USUAL[family]))
    assert torch.equal(usual, said)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "model")
    how = ["sample", str(folder), "a cat", "-n", "1", "--steps", "2", "--out", str(tmp_path / "out")]
    assert "skip 9, but the encoder has 3 layers" in refused([*how, "--clip-skip", "9"], capsys)
    main([*how, "--clip-skip", "2"])
    made = next((tmp_path / "out").glob("0*.png"))
    expected = unnoise.load(folder, clip_skip=2).sample("a cat", 1, steps=2).data[0]
    assert np.array_equal(np.asarray(Image.open(made)), expected.numpy())
    assert "--clip-skip 2" in command(read_meta(made))
    with pytest.raises(InputError, match="clip skip 2: folders of diffusers do not say it"):
        unnoise.load(folder, clip_skip=2).export(tmp_path / "exported")


def test_models_that_no_layer_of_clip_tells_words(tmp_path: Path) -> None:
    folder = tiny.save(tiny.flux(tmp_path / "parts"), tmp_path / "flux")
    with pytest.raises(InputError, match="clip skip 2: the words of this model are not read by CLIP's layers"):
        unnoise.load(folder, clip_skip=2)
    tiny_model().save(tmp_path / "own")
    with pytest.raises(InputError, match="own, whole and unpacked; --clip-skip is for open checkpoints"):
        unnoise.load(tmp_path / "own", clip_skip=2)

"""Filling in with models that were not trained for it: what is to stay is kept, beside diffusers' pipelines that do so."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import refused
from PIL import Image
from tiny import tiny_model
from torch import Tensor

import unnoise
from unnoise.cli.again import command, unsaid
from unnoise.cli.main import main
from unnoise.control.filling import Fill, known
from unnoise.control.sampling import Start
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.modalities.image.show import read_meta
from unnoise.networks.layers import unpatchify
from unnoise.samplers.registry import SAMPLERS

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, SEEDS, ours, theirs  # noqa: E402

PIPELINES = {
    "sd": ("StableDiffusionInpaintPipeline", tiny.stable_diffusion),
    "xl": ("StableDiffusionXLInpaintPipeline", tiny.sdxl),
    "flux": ("FluxInpaintPipeline", tiny.flux),
}


def masked() -> tuple[Tensor, Tensor]:
    """Of 16 x 16 pixels, two to a code; what is to be drawn ends where codes do."""
    pictures = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 4:12, 4:8] = masks[1, :, 8:] = True
    return pictures, masks


@pytest.mark.parametrize("kind", PIPELINES)
def test_the_picture_is_that_of_diffusers(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the picture with the same noise, which keeps its part of every step; of 4.5 steps 4, of FLUX.1 5."""
    name, make = PIPELINES[kind]
    plain = make(tmp_path / "parts")
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    parts = {k: v for k, v in plain.components.items() if k not in ("image_encoder", "feature_extractor")}
    more = {"sd": {"requires_safety_checker": False, "feature_extractor": None}, "xl": {"add_watermarker": False}}.get(kind, {})
    pipeline = getattr(diffusers, name)(**parts, **more)
    pipeline.set_progress_bar_config(disable=True)
    pictures, masks = masked()
    drawn = Streams.each(SEEDS).normal("noise", (4, 8, 8))
    monkeypatch.setattr(import_module(type(pipeline).__module__), "randn_tensor", lambda *args, **kwargs: drawn)
    distribution = import_module("diffusers.models.autoencoders.vae").DiagonalGaussianDistribution
    monkeypatch.setattr(distribution, "sample", lambda self, generator=None: self.mode())
    how: dict[str, Any] = {"num_inference_steps": 9, "strength": 0.5, "guidance_scale": 3.0, "height": 16, "width": 16}
    shown = {"image": pictures.permute(0, 3, 1, 2) / 127.5 - 1, "mask_image": masks[:, None].float()}
    expected = pipeline(PROMPTS, **shown, output_type="latent", **how).images
    if kind == "flux":
        expected = unpatchify(expected, 4, 4, 2)
    fill: dict[str, Any] = {"steps": 9, "guidance": 3.0, "height": 16, "width": 16, "fill": Fill(pictures, masks, 0.5)}
    state, _ = ours(model, **fill)
    anew = torch.nn.functional.max_pool2d(masks[:, None].float(), 2).bool().expand_as(state)
    assert float((state - expected)[anew].abs().max() / expected.std()) < 1e-3
    picture = model.sample(PROMPTS, sample_seeds=SEEDS, **fill).data.float()
    assert float((picture.permute(0, 3, 1, 2) - 255 * theirs(pipeline, expected)).abs().max()) < 0.51, "rounded to whole numbers"
    assert float((state - model.codec.resized(16, 16).encode(pictures))[anew].abs().mean()) > 0.1  # type: ignore[attr-defined]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_stays_stays_with_every_sampler(sampler: str) -> None:
    """Pixels outside the mask are the picture's; at strength 1 those under it leave no trace."""
    model, (pictures, _) = tiny_model(), masked()
    given, m = pictures[:, :8, :8, :1].clone(), torch.zeros(2, 8, 8, dtype=torch.bool)
    m[0, 2:5, 3:7] = m[1, 5:] = True
    how: dict[str, Any] = {"sample_seeds": [3, 4], "steps": 6, "sampler": sampler}
    made = torch.as_tensor(model.sample(["one", "two"], fill=Fill(given, m), **how).data)
    assert float((made.float() - given.float())[~m].abs().max()) <= 1
    changed = given.clone()
    changed[m] = 255 - changed[m]
    assert torch.equal(made, torch.as_tensor(model.sample(["one", "two"], fill=Fill(changed, m), **how).data))
    assert float((made.float() - given.float())[m].abs().mean()) > 1


def test_a_code_is_drawn_anew_where_any_of_its_pixels_is(tmp_path: Path) -> None:
    """Also where the last codes reach beyond the picture."""
    model = unnoise.load(tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "model"))
    codec = model.codec.resized(15, 17)  # type: ignore[attr-defined]
    masks = torch.zeros(1, 15, 17, dtype=torch.bool)
    masks[0, 3, 5] = masks[0, 14, 16] = True
    x, m = known(codec, Fill(torch.zeros(1, 15, 17, 3, dtype=torch.uint8), masks))
    assert x.shape == (1, 4, 8, 9)
    assert m[0, 0].nonzero().tolist() == [[1, 2], [7, 8]]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in Python; `info` tells the command. With a model that was trained to fill in, a strength begins with the picture."""
    pictures, masks = masked()
    Image.fromarray(pictures[0].numpy()).save(tmp_path / "a.png")
    Image.fromarray(masks[0].numpy().astype(np.uint8) * 255).save(tmp_path / "m.png")
    shown = ["--fill", str(tmp_path / "a.png"), "--mask", str(tmp_path / "m.png")]
    folder = tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "model")
    how = ["sample", str(folder), "a cat", "-n", "1", "--seed", "3", "--steps", "4", *shown]
    main([*how, "--strength", "0.5", "--out", str(tmp_path / "half")])
    main([*how, "--out", str(tmp_path / "whole")])
    model = unnoise.load(folder)
    for name, strength in (("half", 0.5), ("whole", 1.0)):
        file = next((tmp_path / name).glob("0*.png"))
        expected = model.sample("a cat", 1, 3, steps=4, fill=Fill(pictures[:1], masks[:1], strength))
        assert np.array_equal(np.asarray(Image.open(file)), expected.data[0].numpy())
        assert f"--strength {strength}" in command(read_meta(file))
        assert f"--fill {tmp_path}/a.png --mask {tmp_path}/m.png" in command(read_meta(file))
    assert "--start and --fill" in refused([*how, "--start", str(tmp_path / "a.png"), "--out", str(tmp_path / "no")], capsys)

    seen = np.zeros((16, 16, 4), np.uint8)  # white strokes on a layer that can be seen through
    seen[masks[0].numpy()] = 255
    Image.fromarray(seen).save(tmp_path / "m.png")
    main([*how, "--out", str(tmp_path / "layer")])
    assert np.array_equal(*(np.asarray(Image.open(next((tmp_path / o).glob("0*.png")))) for o in ("layer", "whole")))

    by_hand = model.sample("a cat", 1, 3, steps=4, fill=Fill(pictures[:1], masks[:1])).settings
    assert unsaid(by_hand) == ["what it filled in, and where (--fill, --mask)"]

    Image.new("L", (16, 16)).save(tmp_path / "m.png")
    assert "m.png: nothing of this mask is white" in refused([*how, "--out", str(tmp_path / "no")], capsys)
    Image.fromarray(masks[0].numpy().astype(np.uint8) * 255).save(tmp_path / "m.png")

    trained = tiny.save(tiny.stable_diffusion(tmp_path / "p9", "StableDiffusionInpaintPipeline", in_channels=9), tmp_path / "t")
    main(["sample", str(trained), *how[2:], "--strength", "0.5", "--out", str(tmp_path / "trained")])
    model = unnoise.load(trained)
    given = unnoise.model.inpainting(model).of(model.codec, pictures[:1], masks[:1])
    expected = model.sample("a cat", 1, 3, steps=4, given=given, start=Start(pictures[:1], 0.5))
    file = next((tmp_path / "trained").glob("0*.png"))
    assert np.array_equal(np.asarray(Image.open(file)), expected.data[0].numpy())


def test_a_refiner_would_not_keep_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, refiner = (tiny.save(make(tmp_path / n), tmp_path / f"m{n}") for n, make in (("b", tiny.sdxl), ("r", tiny.refiner)))
    Image.new("L", (16, 16), 255).save(tmp_path / "m.png")
    shown = ["--fill", str(tmp_path / "m.png"), "--mask", str(tmp_path / "m.png"), "--then", str(refiner)]
    assert "--fill with --then" in refused(["sample", str(base), "a cat", *shown, "--out", str(tmp_path / "no")], capsys)


def test_bad_input() -> None:
    model, (pictures, masks) = tiny_model(), masked()
    small, m = pictures[:, :8, :8, :1], masks[:, :8, :8]
    with pytest.raises(InputError, match="strength 0: the share of the steps"):
        Fill(small, m, 0)
    with pytest.raises(InputError, match="a start and a fill"):
        model.sample(["one", "two"], fill=Fill(small, m), start=Start(small))
    with pytest.raises(InputError, match=r"and masks \(2, 16, 16\) of torch.bool: bool \(B, H, W\) are meant"):
        model.sample(["one", "two"], fill=Fill(small, masks))
    with pytest.raises(InputError, match=r"masks \(2, 8, 8\) of torch.uint8"):
        model.sample(["one", "two"], fill=Fill(small, m.byte()))
    with pytest.raises(InputError, match="2 rows of the start for 1 samples"):
        model.sample("one", fill=Fill(small, m))
    with pytest.raises(InputError, match="do not fit; this model takes"):
        model.sample(["one", "two"], fill=Fill(pictures[..., :1], masks))

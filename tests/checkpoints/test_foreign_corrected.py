"""What diffusers' pipelines correct of early files when they are built: the same is read here."""

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unnoise
from unnoise.checkpoints.foreign.building import FAMILIES
from unnoise.checkpoints.foreign.corrected import network_as_run, scheduler_as_run
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.recognise import class_family
from unnoise.core.errors import InputError
from unnoise.model import inpainting

diffusers = pytest.importorskip("diffusers", reason="the corrections are its pipelines'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_pictures import latents, masked, same, without_chance  # noqa: E402, F401  # a fixture

EARLY = {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "num_train_timesteps": 1000, **tiny.BETAS}


def test_the_classes_that_correct_and_what_they_do() -> None:
    """Of all of diffusers' that run networks of the classes that are run here, as their constructors say."""
    seen = set()
    for name in dir(diffusers):
        init = getattr(getattr(diffusers, name), "__init__", None) if "Pipeline" in name else None
        if not inspect.isfunction(init) or class_family(name) is not None or name.startswith("Onnx"):
            continue
        if not any(kind in str(p.annotation) for kind in FAMILIES for p in inspect.signature(init).parameters.values()):
            continue
        source = inspect.getsource(init)
        does = {key for key in ("steps_offset", "skip_prk_steps") if f'new_config["{key}"]' in source}
        assert set(scheduler_as_run({}, name)) == does, name
        config = {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.8.1", "sample_size": 32}
        side = network_as_run(Part(config, {}, "x"), name).config["sample_size"]
        assert side == (64 if 'new_config["sample_size"]' in source else 32), name
        seen |= does
    assert seen == {"steps_offset", "skip_prk_steps"}


def early(folder: Path, pipeline: Any, scheduler: dict[str, Any], **unet: Any) -> Path:
    """The pipeline as files of old say it."""
    tiny.save(pipeline, folder)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **unet}))
    return folder


@pytest.mark.usefixtures("without_chance")
def test_early_inpainting(tmp_path: Path) -> None:
    """A file that says neither skip_prk_steps nor steps_offset, read by diffusers' own loader; another pipeline leaves it so."""
    whole = tiny.stable_diffusion(tmp_path / "parts", "StableDiffusionInpaintPipeline", diffusers.PNDMScheduler(), in_channels=9)
    folder = early(tmp_path / "model", whole, EARLY)
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.skip_prk_steps
    model, (pictures, masks) = unnoise.load(folder), masked()
    how = {"image": pictures.permute(0, 3, 1, 2) / 127.5 - 1, "mask_image": masks[:, None].float(), "height": 16, "width": 16}
    expected = latents(pipeline, model, num_inference_steps=6, guidance_scale=3.0, **how)
    given = inpainting(model).of(model.codec, pictures, masks)
    same(model, pipeline, expected, steps=6, guidance=3.0, given=given)
    plain = early(tmp_path / "plain", tiny.stable_diffusion(tmp_path / "more"), EARLY)
    with pytest.raises(InputError, match="PNDM that begins with Runge-Kutta steps is not supported"):
        unnoise.load(plain)


@pytest.mark.parametrize(("version", "side"), [("0.6.0", 8), ("0.8.0", [8, 8]), ("0.9.0", 8)])
def test_the_size_of_early_pictures(version: str, side: int | list[int], tmp_path: Path) -> None:
    told = {**EARLY, "skip_prk_steps": True}
    whole = tiny.stable_diffusion(tmp_path / "parts", scheduler=diffusers.PNDMScheduler())
    folder = early(tmp_path / "model", whole, told, _diffusers_version=version, sample_size=side)
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a cat", num_inference_steps=1, output_type="pt").images
    model = unnoise.load(folder)
    assert model.codec.shape() == (4, picture.shape[2] // 2, picture.shape[3] // 2)
    assert isinstance(picture, torch.Tensor)

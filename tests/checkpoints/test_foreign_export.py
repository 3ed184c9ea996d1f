"""What is written for diffusers, loaded by diffusers itself: the same pictures as the pipeline that it was read from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model

import unnoise
from unnoise.cli.main import main
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="what is written is read by diffusers")
import checkpoints.foreign_pipelines as tiny  # noqa: E402

FEW = {"num_inference_steps": 3, "guidance_scale": 3.0}
SMALL = {"height": 16, "width": 16}
V = {**tiny.BETAS, "steps_offset": 1, "clip_sample": False, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
PIPELINES: Mapping[str, tuple[Callable[[Path], Any], Mapping[str, Any]]] = {
    "Stable Diffusion 1": (tiny.stable_diffusion, FEW),
    "Stable Diffusion 2": (
        lambda folder: tiny.stable_diffusion(folder, scheduler=diffusers.DDIMScheduler(**V, timestep_spacing="trailing")),
        FEW,
    ),
    "SDXL": (tiny.sdxl, FEW),
    "Stable Diffusion 3": (tiny.sd3, {**FEW, "max_sequence_length": 64}),
    "FLUX.1": (tiny.flux, {**FEW, **SMALL, "max_sequence_length": 64}),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_diffusers_loads_what_is_written(name: str, tmp_path: Path) -> None:
    make, how = PIPELINES[name]
    theirs = make(tmp_path / "parts")
    unnoise.load(tiny.save(theirs, tmp_path / "model")).export(tmp_path / "again")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    assert type(again) is type(theirs)
    for part in ("unet", "transformer", "vae"):
        if hasattr(theirs, part):
            assert set(getattr(again, part).state_dict()) == set(getattr(theirs, part).state_dict())
    before, after = (
        p("a red cat", output_type="pt", generator=torch.Generator().manual_seed(0), **how).images for p in (theirs, again)
    )
    assert float(before.std()) > 0.02
    assert float((before - after).abs().max()) < 1e-5


def test_a_model_trained_on_here_is_written(tmp_path: Path) -> None:
    """The weights as they are now, through the command line."""
    model = unnoise.load(tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "model"))
    with torch.no_grad():
        for p in model.denoiser.parameters():
            p.mul_(0.9)
    model.save(tmp_path / "ours")
    main(["export", str(tmp_path / "ours"), "--out", str(tmp_path / "theirs")])
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "theirs")
    x, t, words = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.8]), torch.randn(2, 5, 16)
    with torch.no_grad():
        ours = model.denoiser.get_submodule("network")(x, t, {"tokens": words})
        theirs = again.unet(x, t * 1000, words).sample
    assert float((ours - theirs).abs().max() / theirs.std()) < 1e-5


def test_what_diffusers_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="diffusers' pipelines are told words, and denoise codes"):
        tiny_model().export(tmp_path / "out")
    model = unnoise.load(tiny.save(tiny.stable_diffusion(tmp_path / "parts"), tmp_path / "model"))
    with pytest.raises(InputError, match="exists: choose another name"):
        model.export(tmp_path / "model")
    model.codec.mean[0] = 1.0
    with pytest.raises(InputError, match="differ from channel to channel"):
        model.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()

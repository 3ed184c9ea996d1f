"""Other samplers and times than a folder's own, and long prompts, beside diffusers: the same picture."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import unnoise
from unnoise.core.random import Streams
from unnoise.modalities.words.syntax import Said
from unnoise.networks.layers import patchify, unpatchify

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints import test_foreign_pictures  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, SEEDS, latents, noise, same  # noqa: E402


@pytest.mark.parametrize(
    ("sampler", "grid", "scheduler", "told"),
    [
        ("dpmpp-2m", None, "DPMSolverMultistepScheduler", {}),
        ("dpmpp-2m", "karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("euler", None, "EulerDiscreteScheduler", {}),
        ("euler", "karras", "EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("heun", None, "HeunDiscreteScheduler", {}),
        ("ddim", None, "DDIMScheduler", {"clip_sample": False}),
    ],
)
def test_another_sampler_walks_as_its_class_would(
    sampler: str, grid: str | None, scheduler: str, told: Mapping, tmp_path: Path
) -> None:
    """On Stable Diffusion's usual schedule, whose own walk ends at timestep 0, where most others go on to the data. In DPM-Solver++
    theirs rounds Karras' timesteps (`docs/samplers_beside_diffusers.md`)."""
    own = diffusers.PNDMScheduler(
        **tiny.BETAS, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False, timestep_spacing="leading"
    )
    pipeline = tiny.stable_diffusion(tmp_path / "parts", scheduler=own)
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    pipeline.register_modules(scheduler=getattr(diffusers, scheduler).from_config(own.config, **told))
    expected = latents(pipeline, model, num_inference_steps=7, guidance_scale=3.0)
    off = 5e-3 if (sampler, grid) == ("dpmpp-2m", "karras") else 1e-3
    same(model, pipeline, expected, off, steps=7, guidance=3.0, sampler=sampler, grid=grid)


@pytest.mark.parametrize("make", [tiny.sd3, tiny.flux])
def test_karras_times_of_flows(make: Callable[[Path], Any], tmp_path: Path) -> None:
    pipeline = make(tmp_path / "parts")
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config, use_karras_sigmas=True)
    pipeline.register_modules(scheduler=scheduler)
    flux, how = make is tiny.flux, {"num_inference_steps": 5, "guidance_scale": 3.0, "height": 16, "width": 16}
    x = noise(model, (4, 8, 8))
    last = pipeline(PROMPTS, latents=patchify(x, 2) if flux else x, output_type="latent", **how).images
    last = unpatchify(last, 4, 4, 2) if flux else last
    same(model, pipeline, last, steps=5, guidance=3.0, height=16, width=16, grid="karras")


def test_a_long_prompt_of_flux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is told a summary of the first window of CLIP, here of 14 tokens, whether commas part them or not."""
    long = ", ".join(["a red cat", "two dogs of no name", "a hat", "blue water all around"] * 2)
    pipeline = tiny.flux(tmp_path / "parts")
    assert len(pipeline.tokenizer(long).input_ids) > 60
    assert len(pipeline.tokenizer_2(long).input_ids) < 512
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    monkeypatch.setattr(test_foreign_pictures, "PROMPTS", [long, long])
    how = {"num_inference_steps": 3, "guidance_scale": 2.5, "height": 16, "width": 16}
    last = pipeline([long, long], latents=patchify(noise(model, (4, 8, 8)), 2), output_type="latent", **how).images
    same(model, pipeline, unpatchify(last, 4, 4, 2), steps=3, guidance=2.5, height=16, width=16)
    told = unnoise.load(tiny.save(three := tiny.sd3(tmp_path / "three"), tmp_path / "sd3")).conditioner
    with torch.no_grad():
        vector = three.encode_prompt(long, None, None)[2]
        ours = told(told.prepare_said([Said.plain(long)]))["vector"]  # type: ignore[attr-defined]
    assert float((ours - vector).abs().max() / vector.std()) < 1e-4


@pytest.mark.parametrize("sampler", ["lcm", "tcd"])
def test_lcms_timesteps_whatever_the_model_walks(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a LoRA of LCM or TCD, on a model whose own schedule leads: the sampler is asked for, the grid is not."""
    pipeline = tiny.sdxl(tmp_path / "parts")
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    scheduler = {"lcm": diffusers.LCMScheduler, "tcd": diffusers.TCDScheduler}[sampler]
    pipeline.register_modules(scheduler=scheduler.from_config(pipeline.scheduler.config))
    drawn = iter([Streams.each(SEEDS).scoped("sampler").at(i).normal(sampler, (4, 8, 8)) for i in range(4)])
    monkeypatch.setattr(f"diffusers.schedulers.scheduling_{sampler}.randn_tensor", lambda *args, **kwargs: next(drawn))
    expected = latents(pipeline, model, num_inference_steps=4, guidance_scale=0.0, eta=0.3)
    same(model, pipeline, expected, steps=4, guidance=1.0, sampler=sampler)

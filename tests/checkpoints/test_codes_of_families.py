"""Codes: which statistics of them count is each family's own, and they have no bounds. Pictures beside those of diffusers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import unnoise
from unnoise.networks.layers import patchify

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, latents, noise, ours, same  # noqa: E402

SHIFT = {"shift_factor": 0.3}
MEAN, STD = {"latents_mean": [0.2, -0.3, 0.4, 0.1]}, {"latents_std": [0.7, 1.2, 1.5, 0.9]}


@pytest.mark.parametrize(
    "told", [SHIFT | MEAN | STD, SHIFT | MEAN, SHIFT | STD], ids=["all", "without a deviation", "without a mean"]
)
@pytest.mark.parametrize("make", [tiny.stable_diffusion, tiny.sdxl, tiny.sd3, tiny.flux], ids=lambda make: make.__name__)
def test_a_picture_where_all_are_said(make: Callable[[Path], Any], told: dict[str, Any], tmp_path: Path) -> None:
    pipeline = make(tmp_path / "parts")
    pipeline.vae.register_to_config(**told)
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    x, how = noise(model, (4, 8, 8)), {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 16, "width": 16}
    packed = patchify(x, 2) if make is tiny.flux else x
    wanted = pipeline(PROMPTS, latents=packed, output_type="pt", **how).images
    _, got = ours(model, steps=3, guidance=3.0, height=16, width=16)
    assert float(wanted.std()) > 0.02
    assert float((got - wanted).abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("DDIMScheduler", {}),
        ("DPMSolverMultistepScheduler", {"thresholding": True}),
    ],
)
def test_codes_are_not_kept_within_the_range_of_pixels(kind: str, told: dict[str, Any], tmp_path: Path) -> None:
    """DDIM clips where the file says nothing, DPM-Solver++ thresholds if told to, SDXL's codes too: here as if the file said no."""
    scheduler = getattr(diffusers, kind)
    pipeline = tiny.sdxl(tmp_path / "parts", scheduler(**tiny.BETAS, **told))
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    bounded = latents(pipeline, model, num_inference_steps=5, guidance_scale=3.0)
    plain = {"clip_sample": False} if kind == "DDIMScheduler" else {"thresholding": False}
    pipeline.register_modules(scheduler=scheduler(**tiny.BETAS, **plain))
    expected = latents(pipeline, model, num_inference_steps=5, guidance_scale=3.0)
    assert float((bounded - expected).abs().max()) > 0.1
    same(model, pipeline, expected, steps=5, guidance=3.0)

"""Which statistics of an autoencoder's codes count is each family's own: whole pictures beside those of diffusers' pipelines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints.test_foreign_pictures import PROMPTS, noise, ours

import unnoise
from unnoise.networks.layers import patchify

pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny

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

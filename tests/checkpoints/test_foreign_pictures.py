"""Folders that diffusers' pipelines saved, run here: from the same starting noise the same picture as theirs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import unnoise
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.model import DiffusionModel

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402

PROMPTS = ["a red cat", "a dog, 1 hat"]
SEEDS = (5, 6)


def noise(model: DiffusionModel, shape: tuple[int, ...] | None = None) -> Tensor:
    """What the samples start from, of variance 1."""
    wanted = shape or model.codec.shape()
    assert isinstance(wanted, tuple)
    return Streams.each(SEEDS).normal("prior", wanted)


def ours(model: DiffusionModel, **how: Any) -> tuple[Tensor, Tensor]:
    """The last states, and their pictures in 0 ... 1, not rounded."""
    states: list[State] = []
    model.sample(PROMPTS, sample_seeds=SEEDS, watch=lambda i, n, x: states.append(x), **how)
    x = states[-1]
    assert isinstance(x, Tensor)
    codec: Any = model.codec
    with torch.no_grad():
        decoded = codec.autoencoder.decode(x * codec.std[:, None, None] + codec.mean[:, None, None])
    return x, (decoded / 2 + 0.5).clamp(0, 1)


def theirs(pipeline: Any, x: Tensor) -> Tensor:
    """Their picture of their last state."""
    config = pipeline.vae.config
    with torch.no_grad():
        decoded = pipeline.vae.decode(x / config.scaling_factor + (config.shift_factor or 0.0)).sample
    return (decoded / 2 + 0.5).clamp(0, 1)


def same(model: DiffusionModel, pipeline: Any, last: Tensor, **how: Any) -> None:
    """Within 1e-3, states against their own size; and neither may be flat."""
    state, picture = ours(model, **how)
    expected = theirs(pipeline, last)
    assert float(last.std()) > 0.1
    assert float(expected.std()) > 0.02
    assert float((state - last).abs().max() / last.std()) < 1e-3
    assert float((picture - expected).abs().max()) < 1e-3


def latents(pipeline: Any, model: DiffusionModel, **how: Any) -> Tensor:
    out: Tensor = pipeline(PROMPTS, latents=noise(model), output_type="latent", **how).images
    return out


SCHEDULERS: Mapping[str, Callable[[], Any]] = {
    "DDIM": lambda: None,
    "PNDM": lambda: diffusers.PNDMScheduler(**tiny.BETAS, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False),
    "DPM++ 2M": lambda: diffusers.DPMSolverMultistepScheduler(**tiny.BETAS),
    "v-prediction": lambda: diffusers.DDIMScheduler(
        **tiny.BETAS, steps_offset=1, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_stable_diffusion_1_and_2(name: str, tmp_path: Path) -> None:
    pipeline = tiny.stable_diffusion(tmp_path / "parts", scheduler=SCHEDULERS[name]())
    model = unnoise.load(tiny.save(pipeline, tmp_path / "model"))
    expected = latents(pipeline, model, num_inference_steps=6, guidance_scale=4.0, negative_prompt=["dog"] * 2)
    same(model, pipeline, expected, steps=6, guidance=4.0, negative="dog")

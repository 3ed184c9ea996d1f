"""ControlNets of Stable Diffusion 3 and FLUX that fill in what is transparent in their picture (alimama-creative's)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from beside_diffusers import randomised
from PIL import Image
from torch import Tensor, nn

import unnoise
from unnoise.checkpoints.foreign.adapters import controlnet
from unnoise.core.errors import InputError
from unnoise.networks.layers import patchify, unpatchify

diffusers = pytest.importorskip("diffusers", reason="the pictures to compare with are diffusers'")
import checkpoints.foreign_pipelines as tiny  # noqa: E402
from checkpoints.test_foreign_adapters import PICTURES, SHOWN, exactly, saved  # noqa: E402
from checkpoints.test_foreign_pictures import PROMPTS, latents, noise, same  # noqa: E402

HOLE = np.zeros((16, 16, 1), bool)
HOLE[3:10, 5:12] = True  # of odd sides at odd places: the codes are half as large
PICTURE = np.concatenate([PICTURES[0], np.where(HOLE, 90, 255).astype(np.uint8)], -1)
MASK = Image.fromarray(np.where(HOLE[..., 0], 255, 0).astype(np.uint8))
HOW = {"num_inference_steps": 3, "controlnet_conditioning_scale": 0.8, "height": 16, "width": 16}


def changed(folder: Path, **more: Any) -> None:
    file = folder / "config.json"
    told = json.loads(file.read_text()) | more
    file.write_text(json.dumps({k: v for k, v in told.items() if v is not None}))


def test_filling_in_with_stable_diffusion_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published: its config.json does not say that there is a channel more."""
    exactly(monkeypatch)
    plain = tiny.sd3(tmp_path / "parts")
    config = {k: v for k, v in plain.transformer.config.items() if not k.startswith("_") and k != "num_layers"}
    net = diffusers.SD3ControlNetModel(**config, num_layers=1, extra_conditioning_channels=1)
    saved(net, tmp_path / "net")
    changed(tmp_path / "net", extra_conditioning_channels=None)
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    pipeline = diffusers.StableDiffusion3ControlNetInpaintingPipeline(**plain.components, controlnet=net)
    pipeline.set_progress_bar_config(disable=True)
    expected = latents(pipeline, model, control_image=SHOWN[0], control_mask=MASK, guidance_scale=3.0, **HOW)
    Image.fromarray(PICTURE).save(tmp_path / "hole.png")
    attached = model.attached(controlnet(tmp_path / "net", tmp_path / "hole.png", 0.8))
    same(attached, pipeline, expected, steps=3, guidance=3.0)
    with pytest.raises(InputError, match="draws anew what is transparent in its picture, and nothing is"):
        controlnet(tmp_path / "net", np.concatenate([PICTURES[0], 0 * PICTURE[..., 3:] + 255], -1))


def flux_net(plain: Any, extra: int) -> nn.Module:
    """diffusers' class, whose control picture enters with more channels, as in alimama-creative's own."""
    names = ("in_channels", "attention_head_dim", "num_attention_heads", "joint_attention_dim", "pooled_projection_dim")
    config = {k: plain.transformer.config[k] for k in (*names, "axes_dims_rope", "guidance_embeds")}
    net = diffusers.FluxControlNetModel(**config, num_layers=1, num_single_layers=0)
    net.controlnet_x_embedder = nn.Linear(config["in_channels"] + extra, net.inner_dim)
    return net


def test_filling_in_with_flux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers has no class that is told the mask: its network is told it in place of what its pipeline would tell it, prepared as
    alimama-creative's own pipeline does: black where it is to be drawn, encoded, 1 where it stays beside, packed together."""
    exactly(monkeypatch)
    plain = tiny.flux(tmp_path / "parts")
    net: Any = flux_net(plain, 4)
    saved(net, tmp_path / "net")
    model = unnoise.load(tiny.save(plain, tmp_path / "model"))
    pipeline = diffusers.FluxControlNetPipeline(**plain.components, controlnet=net)
    pipeline.set_progress_bar_config(disable=True)
    shown = torch.tensor(np.where(HOLE, 0, PICTURES[0])).permute(2, 0, 1)[None] / 127.5 - 1
    vae = plain.vae
    with torch.no_grad():
        code = (vae.encode(shown).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
    kept = 1 - torch.tensor(HOLE[::2, ::2, 0], dtype=torch.float32)[None, None]
    packed = pipeline._pack_latents(torch.cat([code, kept], 1), 1, 5, 8, 8).expand(2, -1, -1)
    own = net.forward

    def told(controlnet_cond: Tensor, **more: Any) -> Any:
        return own(controlnet_cond=packed, **more)

    monkeypatch.setattr(net, "forward", told)
    x = patchify(noise(model, (4, 8, 8)), 2)
    last = pipeline(PROMPTS, latents=x, output_type="latent", control_image=SHOWN[0], guidance_scale=2.5, **HOW).images
    attached = model.attached(controlnet(tmp_path / "net", PICTURE, 0.8))
    same(attached, pipeline, unpatchify(last, 4, 4, 2), steps=3, guidance=2.5, height=16, width=16)


def test_holes_that_are_shown_otherwise(tmp_path: Path) -> None:
    plain = tiny.flux(tmp_path / "parts")
    for name, extra in (("inpaint", 0), ("canny", 3)):
        saved(randomised(flux_net(plain, extra)), tmp_path / name)
        with pytest.raises(
            InputError, match=f"{name}: a FluxControlNetModel that is told which part is to be filled, which cannot"
        ):
            controlnet(tmp_path / name, PICTURE)

"""Settings that a config.json leaves out: those of diffusers' own classes, for all that our readings need."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unnoise.checkpoints.diffusers_names import flux_config, sd3_config, unet_config
from unnoise.checkpoints.foreign.adapter_names import STEERING
from unnoise.checkpoints.foreign.defaults import DEFAULTS
from unnoise.checkpoints.foreign.dit_names import pixart_config, sana_config
from unnoise.checkpoints.foreign.folder import read_part
from unnoise.checkpoints.foreign.vae_names import dc_config, kl_config, tiny_config
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="the settings are those of diffusers' classes")
KINDS = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
SANA = {
    "encoder_block_types": KINDS, "decoder_block_types": KINDS, "downsample_block_type": "Conv",
    "upsample_block_type": "interpolate", "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu", "scaling_factor": 0.41407,
}  # fmt: skip
"""What of its autoencoder's published configuration is not the class's own."""
READINGS: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "UNet2DConditionModel": unet_config,
    "SD3Transformer2DModel": sd3_config,
    "FluxTransformer2DModel": flux_config,
    "PixArtTransformer2DModel": lambda config: pixart_config({**config, "caption_channels": 4096}),
    "SanaTransformer2DModel": sana_config,
    "AutoencoderKL": kl_config,
    "AutoencoderTiny": tiny_config,
    "AutoencoderDC": lambda config: dc_config({**config, **SANA}),
    "ControlNetUnionModel": lambda config: STEERING["ControlNetUnionModel"][0]({**config, "addition_time_embed_dim": 256}),
    **{kind: STEERING[kind][0] for kind in ("ControlNetModel", "FluxControlNetModel", "T2IAdapter")},
}


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("kind", DEFAULTS)
def test_they_are_diffusers_and_enough(kind: str, tmp_path: Path) -> None:
    """The configuration of a file that names its class and nothing else is that of their network built without arguments."""
    parameters = inspect.signature(getattr(diffusers, kind)).parameters
    assert {k: plain(v) for k, v in DEFAULTS[kind].items()} == {k: plain(parameters[k].default) for k in DEFAULTS[kind]}
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": kind}))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    whole = {k: p.default for k, p in parameters.items() if p.default is not inspect.Parameter.empty}
    assert READINGS[kind](read_part(tmp_path).config) == READINGS[kind](whole)


def test_flux_as_it_was_published(tmp_path: Path) -> None:
    """FLUX.1-dev's config.json names no rotary axes."""
    published = {
        "_class_name": "FluxTransformer2DModel", "_diffusers_version": "0.30.0.dev0", "attention_head_dim": 128,
        "guidance_embeds": True, "in_channels": 64, "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 19,
        "num_single_layers": 38, "patch_size": 1, "pooled_projection_dim": 768,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(published))
    save_file({"a": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with torch.device("meta"):
        theirs = diffusers.FluxTransformer2DModel(guidance_embeds=True)
    assert flux_config(read_part(tmp_path).config) == flux_config(theirs.config)


def test_sanas_autoencoder_as_it_was_published() -> None:
    """Its configuration says "Conv" with a capital: to diffusers all but "pixel_unshuffle" is a convolution of stride 2."""
    told = {**DEFAULTS["AutoencoderDC"], **SANA}
    with torch.device("meta"):
        theirs, ours = diffusers.AutoencoderDC(**told), dc_config(told).build()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    shuffling = {**told, "downsample_block_type": "pixel_unshuffle"}
    with pytest.raises(InputError, match="downsample_block_type 'pixel_unshuffle'"):
        dc_config(shuffling)

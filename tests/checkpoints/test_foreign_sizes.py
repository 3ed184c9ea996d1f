"""Single files of the published sizes, by their shapes alone: with the original names, as diffusers' own converters read them."""

from collections.abc import Callable, Mapping

import foreign_originals as originals
import pytest
import torch
from torch import Tensor

from unnoise.checkpoints.foreign import original_configs
from unnoise.checkpoints.foreign.families import family_of
from unnoise.checkpoints.foreign.pieces import Shapes

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
single_file_utils = pytest.importorskip("diffusers.loaders.single_file_utils")

NETWORK = "model.diffusion_model."
SD1 = {"cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64}
LINEAR = {"use_linear_projection": True}
SIZED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256, **LINEAR}
BASE = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": [1, 4, 4, 4],
    "attention_head_dim": [6, 12, 24, 24],
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}
DEV = {"guidance_embeds": True}
LARGE = {"sample_size": 128, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "sample_size": 128}
FULL: dict[str, tuple[str, dict]] = {
    "SD 1.5": ("UNet2DConditionModel", SD1),
    "SD 1.5 for inpainting": ("UNet2DConditionModel", {**SD1, "in_channels": 9}),
    "SD 2.1": ("UNet2DConditionModel", {**LINEAR, "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20]}),
    "SDXL": ("UNet2DConditionModel", {**SIZED, **BASE}),
    "SDXL refiner": ("UNet2DConditionModel", {**SIZED, **REFINER}),
    "SD3 medium": ("SD3Transformer2DModel", {**MEDIUM, "in_channels": 16, "pos_embed_max_size": 192}),
    "SD3.5 large": ("SD3Transformer2DModel", {**LARGE, "in_channels": 16, "pos_embed_max_size": 192}),
    "SD3.5 medium": (
        "SD3Transformer2DModel",
        {**MEDIUM, "qk_norm": "rms_norm", "in_channels": 16, "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13))},
    ),
    "FLUX.1 schnell": ("FluxTransformer2DModel", {}),
    "FLUX.1 dev": ("FluxTransformer2DModel", DEV),
    "FLUX.1 fill": ("FluxTransformer2DModel", {**DEV, "in_channels": 384, "out_channels": 64}),
    "FLUX.1 canny and depth": ("FluxTransformer2DModel", {**DEV, "in_channels": 128, "out_channels": 64}),
}
JOINT = {"joint_attention_dim": 4096, "pooled_projection_dim": 2048}
BACK: dict[str, tuple[Callable, Callable, Callable]] = {
    "UNet2DConditionModel": (lambda s: originals.unet(s, 2), original_configs.unet, single_file_utils.convert_ldm_unet_checkpoint),
    "SD3Transformer2DModel": (
        originals.sd3,
        original_configs.sd3,
        lambda s, config: single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(s),
    ),
    "FluxTransformer2DModel": (
        lambda s: originals.flux(s, NETWORK),
        original_configs.flux,
        lambda s, config: single_file_utils.convert_flux_transformer_checkpoint_to_diffusers(s),
    ),
}


class Nothing:
    """A store of shapes alone."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.shapes = Shapes({k: tuple(v.shape) for k, v in tensors.items()})

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        raise AssertionError(f"{name} was read")


@pytest.mark.parametrize("name", FULL)
def test_the_full_sizes(name: str) -> None:
    """Every tensor and shape accounted for, by diffusers' network and by its converter; the configuration is the published one."""
    kind, config = FULL[name]
    back, reading, converter = BACK[kind]
    with torch.device("meta"):
        theirs = getattr(diffusers, kind)(**({**JOINT, **config} if kind.startswith("SD3") else config))
    tensors = back(theirs.state_dict())
    part = original_configs.part(Nothing(tensors), NETWORK, reading, name)
    expected = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    assert part.tensors.shapes == expected
    assert {k: tuple(v.shape) for k, v in converter(dict(tensors), theirs.config).items()} == expected
    family = family_of(part.config)
    told = {**part.config, "sample_size": family.side}
    for key, value in config.items():
        listed = list(value) if isinstance(value, tuple) else value
        assert told[key] == listed or told[key] == [listed] * len(told[key]), key

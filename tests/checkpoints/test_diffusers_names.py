"""Networks of the diffusers library, tiny and with random weights, against ours with the same weights."""

import pytest
import torch
from beside_diffusers import TIMES, close, randomised
from torch import nn

from unnoise.checkpoints.diffusers_names import (
    FLUX_TABLE,
    SD3_TABLE,
    SD3_UNUSED,
    UNET_TABLE,
    flux_config,
    sd3_config,
    translate,
    unet_config,
)
from unnoise.checkpoints.foreign.theirs import unet_theirs
from unnoise.core.errors import InputError
from unnoise.networks.embedding import size_features
from unnoise.networks.layers import patchify, unpatchify

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")


def sd3(**changed: object) -> nn.Module:
    sizes = {"sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8}
    more = {"num_attention_heads": 2, "joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 10}
    return diffusers.SD3Transformer2DModel(**{**sizes, **more, "pos_embed_max_size": 12, **changed})


@pytest.mark.parametrize(
    "changed",
    [{}, {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}, {"qk_norm": "rms_norm", "dual_attention_layers": (2,)}],
    ids=["SD3", "SD3.5", "SD3.5 with a dual last block"],
)
def test_stable_diffusion_3(changed: dict) -> None:
    theirs = randomised(sd3(**changed), 0)
    ours = sd3_config(theirs.config).build().eval()
    made = ours.positions.clone()
    ours.load_state_dict(translate(theirs.state_dict(), SD3_TABLE, ours.state_dict(), SD3_UNUSED))
    torch.testing.assert_close(made, ours.positions, rtol=1e-6, atol=1e-6)  # computed here as there
    x, tokens, vector = torch.randn(3, 4, 8, 14), torch.randn(3, 5, 12), torch.randn(3, 10)
    with torch.no_grad():
        expected = theirs(x, tokens, vector, TIMES * 1000).sample
        close(ours(x, TIMES, {"tokens": tokens, "vector": vector}), expected)
        masked = {"tokens": torch.cat([tokens, tokens], 1), "mask": torch.arange(10).expand(3, 10) < 5, "vector": vector}
        close(ours(x, TIMES, masked), expected)


def flux(**changed: object) -> nn.Module:
    sizes = {"in_channels": 16, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2}
    more = {"joint_attention_dim": 12, "pooled_projection_dim": 10, "axes_dims_rope": (4, 4, 8)}
    return diffusers.FluxTransformer2DModel(**{**sizes, **more, **changed})


@pytest.mark.parametrize("guidance", [False, True], ids=["schnell", "dev"])
def test_flux(guidance: bool) -> None:
    """Their pictures come as patches, with the coordinates of every token beside them."""
    theirs = randomised(flux(guidance_embeds=guidance), 0)
    ours = flux_config(theirs.config).build().eval()
    ours.load_state_dict(translate(theirs.state_dict(), FLUX_TABLE, ours.state_dict()))
    x, tokens, vector, scale = torch.randn(3, 4, 6, 10), torch.randn(3, 5, 12), torch.randn(3, 10), torch.tensor([1.0, 3.5, 7.0])
    y, column = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    places = torch.stack([torch.zeros(3, 5), y, column], -1).flatten(0, 1)
    with torch.no_grad():
        expected = theirs(patchify(x, 2), tokens, vector, TIMES, places, torch.zeros(5, 3), scale if guidance else None).sample
        expected = unpatchify(expected, 3, 5, 2)
        close(ours(x, TIMES, {"tokens": tokens, "vector": vector, "guidance": scale}), expected)
        masked = {"tokens": torch.cat([tokens, tokens], 1), "mask": torch.arange(10).expand(3, 10) < 5}
        close(ours(x, TIMES, masked | {"vector": vector, "guidance": scale}), expected)


def unet(**changed: object) -> nn.Module:
    sizes = {"in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16, 16), "layers_per_block": 2, "norm_num_groups": 4}
    down, up = ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",), ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2
    more = {"down_block_types": down, "up_block_types": up, "cross_attention_dim": 12, "attention_head_dim": 2}
    return diffusers.UNet2DConditionModel(**{**sizes, **more, **changed})


UNETS: dict[str, dict] = {
    "SD 1": {},
    "SD 1 for inpainting": {"in_channels": 9},
    "SD 2": {"attention_head_dim": [1, 2, 4], "use_linear_projection": True},
    "SDXL": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": [1, 2, 4],
        "transformer_layers_per_block": [1, 1, 3],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 6,
        "projection_class_embeddings_input_dim": 46,
    },
    "LCM": {"time_cond_proj_dim": 10},
    "without a transformer in the middle": {"mid_block_type": "UNetMidBlock2D"},
}


@pytest.mark.parametrize("name", UNETS)
def test_the_u_net_of_stable_diffusion(name: str) -> None:
    theirs = randomised(unet(**UNETS[name]), 0)
    ours = unet_config(theirs.config).build().eval()
    ours.load_state_dict(translate(theirs.state_dict(), UNET_TABLE, ours.state_dict()))
    x, tokens, summary = torch.randn(3, theirs.config.in_channels, 8, 12), torch.randn(3, 5, 12), torch.randn(3, 10)
    sizes = torch.tensor([[512.0, 512, 0, 0, 1024, 1024], [480, 640, 12, 0, 896, 1152], [64, 2048, 0, 700, 1536, 640]])
    cond = {"vector": torch.cat([summary, size_features(sizes, 6)], 1), "picture": x[:, 4:]}
    with torch.no_grad():
        added = {"text_embeds": summary, "time_ids": sizes} if "XL" in name else None
        scale = torch.tensor([1.0, 3.5, 8.5])
        told = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale - 1, 10) if "LCM" in name else None
        expected = theirs(x, TIMES * 1000, tokens, timestep_cond=told, added_cond_kwargs=added).sample
        cond["guidance"] = scale
        close(ours(x[:, :4], TIMES, cond | {"tokens": tokens}), expected)
        close(ours(x[:, :4].to(memory_format=torch.channels_last), TIMES, cond | {"tokens": tokens}), expected)
        masked = {"tokens": torch.cat([tokens, tokens], 1), "mask": torch.arange(10).expand(3, 10) < 5}
        close(ours(x[:, :4], TIMES, cond | masked), expected)
        odd = x[:, :, :7, :9]  # halves to 4 x 5 and to 2 x 3
        expected = theirs(odd, TIMES * 1000, tokens, timestep_cond=told, added_cond_kwargs=added).sample
        close(ours(odd[:, :4], TIMES, cond | {"tokens": tokens, "picture": odd[:, 4:]}), expected)


@pytest.mark.parametrize("name", UNETS)
def test_what_is_said_of_a_u_net_is_read_as_the_same(name: str) -> None:
    ours = unet_config(unet(**UNETS[name]).config)
    assert unet_config(unet_theirs(ours, (8, 8), 6)) == ours


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"act_fn": "gelu"}, "act_fn 'gelu'"),
        ({"mid_block_type": "other"}, "mid_block_type 'other': .* UNetMidBlock2DCrossAttn, UNetMidBlock2D there, or none"),
        (
            {"transformer_layers_per_block": [1, 1, 1], "reverse_transformer_layers_per_block": [[1], [], 1]},
            r"transformers of depths .*: one number for each of 3 levels, or 3, are meant",
        ),
        ({"transformer_layers_per_block": [1]}, r"transformers of depths \[1\]: one number for each of 3 levels"),
        ({"addition_embed_type": "image"}, "addition_embed_type 'image'"),
        ({"up_block_types": ("CrossAttnUpBlock2D",) * 3}, "not those of Stable Diffusion"),
    ],
)
def test_a_u_net_of_another_family_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        unet_config({**unet().config, **changed})


def test_the_published_sizes() -> None:
    """The published configurations, with nothing allocated: our networks have their parameters, all but the unused."""
    with torch.device("meta"):
        medium = diffusers.SD3Transformer2DModel(
            sample_size=128, num_layers=24, attention_head_dim=64, num_attention_heads=24, caption_projection_dim=1536,
            pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
        )  # fmt: skip
        dev = diffusers.FluxTransformer2DModel(guidance_embeds=True)
        depth = diffusers.FluxTransformer2DModel(guidance_embeds=True, in_channels=128, out_channels=64)
        first = diffusers.UNet2DConditionModel(cross_attention_dim=768)
        xl = diffusers.UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20], cross_attention_dim=2048,
            use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
        for theirs, config, table, unused in (
            (first, unet_config(first.config), UNET_TABLE, ()),
            (xl, unet_config(xl.config), UNET_TABLE, ()),
            (medium, sd3_config(medium.config), SD3_TABLE, SD3_UNUSED),
            (dev, flux_config(dev.config), FLUX_TABLE, ()),
            (depth, flux_config(depth.config), FLUX_TABLE, ()),
        ):
            translate(theirs.state_dict(), table, config.build().state_dict(), unused)


def test_a_checkpoint_that_is_something_else_is_refused() -> None:
    theirs = sd3()
    weights, wanted = theirs.state_dict(), sd3_config(theirs.config).build().state_dict()
    for changed, message in (
        ({k: v for k, v in weights.items() if k != "proj_out.weight"}, "lacks 'proj_out.weight'"),
        ({**weights, "more.weight": torch.zeros(1)}, "has 'more.weight', which has no place"),
        ({**weights, "proj_out.bias": torch.zeros(3)}, r"'proj_out.bias' is \(3,\), where \(16,\)"),
    ):
        with pytest.raises(InputError, match=message):
            translate(changed, SD3_TABLE, wanted, SD3_UNUSED)
    with pytest.raises(InputError, match="qk_norm 'layer_norm'"):
        sd3_config({**theirs.config, "qk_norm": "layer_norm"})

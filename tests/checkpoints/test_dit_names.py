"""PixArt's and Sana's transformers of the diffusers library, tiny and with random weights, against ours with the same weights."""

import pytest
import torch
from beside_diffusers import TIMES, close, randomised
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import Table, translate
from unnoise.checkpoints.foreign.dit_names import PIXART_TABLE, SANA_SPRINT_TABLE, SANA_TABLE, pixart_config, sana_config
from unnoise.core.errors import InputError

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
LENGTHS = (7, 1, 4)
"""Tokens of each prompt."""


def pixart(**changed: object) -> nn.Module:
    sizes = {"sample_size": 16, "num_attention_heads": 3, "attention_head_dim": 8, "num_layers": 2, "cross_attention_dim": 24}
    return diffusers.PixArtTransformer2DModel(**{**sizes, "caption_channels": 12, **changed})


def sana(**changed: object) -> nn.Module:
    sizes = {"in_channels": 6, "out_channels": 6, "num_attention_heads": 6, "attention_head_dim": 4, "num_layers": 2}
    words = {"num_cross_attention_heads": 3, "cross_attention_head_dim": 8, "cross_attention_dim": 24, "caption_channels": 12}
    return diffusers.SanaTransformer2DModel(**{**sizes, **words, "sample_size": 8, **changed})


def words() -> tuple[Tensor, Tensor]:
    """Tokens and mask of prompts of several lengths. What is masked is far from zero."""
    mask = torch.arange(max(LENGTHS) + 2) < torch.tensor(LENGTHS)[:, None]
    return torch.randn(*mask.shape, 12), mask


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"sample_size": 32, "interpolation_scale": 2},
        {"sample_size": 32, "use_additional_conditions": True},
        {"out_channels": 4},
        {"patch_size": 1},
    ],
    ids=["Sigma", "Sigma, stretched", "alpha, told sizes", "no variance", "patches of 1"],
)
def test_pixart(changed: dict) -> None:
    theirs = randomised(pixart(**changed), 0)
    ours = pixart_config(theirs.config).build().eval()
    ours.load_state_dict(translate(theirs.state_dict(), PIXART_TABLE, ours.state_dict()))
    tokens, mask = words()
    told = "use_additional_conditions" in changed
    sizes = torch.tensor([[512.0, 512, 1.0], [480, 640, 0.75], [1536, 640, 2.4]])
    added = {"resolution": sizes[:, :2] if told else None, "aspect_ratio": sizes[:, 2:] if told else None}
    for size in ((16, 16), (8, 14)):
        x = torch.randn(3, 4, *size)
        with torch.no_grad():
            expected = theirs(x, tokens, TIMES * 1000, added, encoder_attention_mask=mask.long()).sample[:, :4]
            close(ours(x, TIMES, {"tokens": tokens, "mask": mask} | ({"vector": sizes} if told else {})), expected)
            expected = theirs(x, tokens, TIMES * 1000, added).sample[:, :4]
            close(ours(x, TIMES, {"tokens": tokens} | ({"vector": sizes} if told else {})), expected)


@pytest.mark.parametrize(
    ("changed", "table"),
    [
        ({}, SANA_TABLE),
        ({"interpolation_scale": 2.0, "patch_size": 2}, SANA_TABLE),
        ({"qk_norm": "rms_norm_across_heads", "timestep_scale": 0.001}, SANA_TABLE),
        ({"qk_norm": "rms_norm_across_heads", "guidance_embeds": True, "timestep_scale": 0.001}, SANA_SPRINT_TABLE),
    ],
    ids=["Sana", "Sana at 4096 pixels, patches of 2", "Sana 1.5", "Sana-Sprint"],
)
def test_sana(changed: dict, table: Table) -> None:
    theirs = randomised(sana(**changed), 0)
    ours = sana_config(theirs.config).build().eval()
    ours.load_state_dict(translate(theirs.state_dict(), table, ours.state_dict()))
    tokens, mask = words()
    scale = torch.tensor([1.0, 4.5, 7.0])
    told = {"guidance": scale * theirs.config.guidance_embeds_scale} if "guidance_embeds" in changed else {}
    times = TIMES * 1000 * theirs.config.timestep_scale
    for size in ((8, 8), (6, 10)):
        x = torch.randn(3, 6, *size)
        with torch.no_grad():
            expected = theirs(x, tokens, times, encoder_attention_mask=mask.long(), **told).sample
            close(ours(x, TIMES, {"tokens": tokens, "mask": mask, "guidance": scale}), expected)
            expected = theirs(x, tokens, times, **told).sample
            close(ours(x, TIMES, {"tokens": tokens, "guidance": scale}), expected)


def test_the_published_sizes() -> None:
    """The published configurations, with nothing allocated: our networks have their parameters, every one."""
    big = {"num_layers": 28, "caption_channels": 4096, "cross_attention_dim": 1152}
    small = {"num_attention_heads": 36, "num_layers": 28, "num_cross_attention_heads": 16, "cross_attention_head_dim": 72}
    with torch.device("meta"):
        for side, told in ((64, False), (128, False), (256, False), (128, True)):
            theirs = diffusers.PixArtTransformer2DModel(sample_size=side, use_additional_conditions=told, **big)
            ours = pixart_config(theirs.config).build()
            translate(theirs.state_dict(), PIXART_TABLE, ours.state_dict())
            assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
        for changed, table in (
            ({}, SANA_TABLE),  # 1.6B at 1024 pixels
            ({"sample_size": 128, "interpolation_scale": 2.0}, SANA_TABLE),  # 4096 pixels
            ({**small, "cross_attention_dim": 1152, "num_attention_heads": 36}, SANA_TABLE),  # 0.6B
            ({"num_layers": 60, "qk_norm": "rms_norm_across_heads", "timestep_scale": 0.001}, SANA_TABLE),  # 1.5, 4.8B
            ({"qk_norm": "rms_norm_across_heads", "guidance_embeds": True}, SANA_SPRINT_TABLE),
        ):
            theirs = diffusers.SanaTransformer2DModel(**changed)
            ours = sana_config(theirs.config).build()
            translate(theirs.state_dict(), table, ours.state_dict())
            assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"norm_type": "ada_norm_zero"}, "norm_type 'ada_norm_zero': PixArt has 'ada_norm_single' there"),
        ({"cross_attention_dim": 20}, "cross_attention_dim 20: PixArt has 24 there"),
        ({"caption_channels": None}, "caption_channels is missing"),
        ({"out_channels": 5}, "out_channels 5: PixArt has 4, or 8"),
    ],
)
def test_what_is_not_pixart_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pixart_config({**pixart().config, **changed})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attention_bias": True}, "attention_bias True: Sana has False there"),
        ({"cross_attention_head_dim": 6}, "cross_attention_head_dim 18: Sana has 24 there"),
        ({"qk_norm": "layer_norm"}, "qk_norm 'layer_norm'"),
    ],
)
def test_what_is_not_sana_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sana_config({**sana().config, **changed})

"""Stable Diffusion 1.5's and XL's U-Nets in their full size, in float32, beside diffusers': the same numbers.

Their parameters are views of a few buffers of random numbers, each at an offset of its own, so that .9 and 2.6 billion of them take
half a gigabyte, and two that are mixed up differ.
"""

from typing import Any

import pytest
import torch
from beside_diffusers import close
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import UNET_TABLE, translate, unet_config
from unnoise.networks.embedding import size_features
from unnoise.networks.unfilled import unfilled

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")

SIZES: dict[str, dict[str, Any]] = {
    "SD 1.5": {"cross_attention_dim": 768},
    "SDXL": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True, "cross_attention_dim": 2048, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip
APART = 97  # numbers between the beginnings of two parameters


def views(network: nn.Module) -> dict[str, Tensor]:
    """Values for all its parameters, of a deviation of 1 / sqrt(inputs), or .3."""
    state, largest = network.state_dict(), dict[int, int]()
    inputs = {name: p[0].numel() if p.ndim > 1 else 0 for name, p in state.items()}
    for name, p in state.items():
        largest[inputs[name]] = max(p.numel(), largest.get(inputs[name], 0))
    rng = torch.Generator().manual_seed(0)
    buffers = {
        n: torch.randn(most + APART * len(state), generator=rng) * (n**-0.5 if n else 0.3) for n, most in largest.items()
    }  # fmt: skip
    return {
        name: buffers[inputs[name]][APART * i : APART * i + p.numel()].view(p.shape) for i, (name, p) in enumerate(state.items())
    }


@pytest.mark.parametrize("name", SIZES)
@torch.no_grad()
def test_a_network_in_its_full_size(name: str) -> None:
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**SIZES[name]).eval()
    theirs.load_state_dict(views(theirs), assign=True)
    with unfilled():
        ours = unet_config(theirs.config).build().eval()
    ours.load_state_dict(translate(theirs.state_dict(), UNET_TABLE, ours.state_dict()), assign=True)
    rng = torch.Generator().manual_seed(1)
    x, t = torch.randn(1, 4, 16, 24, generator=rng), torch.tensor([0.4])
    tokens, summary = (torch.randn(1, *shape, generator=rng) for shape in ((77, theirs.config.cross_attention_dim), (1280,)))
    sizes = torch.tensor([[1024.0, 768.0, 0.0, 16.0, 1024.0, 1024.0]])
    added = {"text_embeds": summary, "time_ids": sizes} if name == "SDXL" else None
    cond = {"tokens": tokens, "vector": torch.cat([summary, size_features(sizes, 256)], 1)}
    close(ours(x, t, cond), theirs(x, t * 1000, tokens, added_cond_kwargs=added).sample)

"""Networks of Stable Diffusion 1.5 and XL in their full size, in float32, beside diffusers' and transformers': the same numbers.

Their parameters are views of a few buffers of random numbers, each at an offset of its own, so that .9 and 2.6 billion of them take
half a gigabyte, and two that are mixed up differ.
"""

from typing import Any

import pytest
import torch
from beside_diffusers import close
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import UNET_TABLE, translate, unet_config
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.vae_names import read_autoencoder
from unnoise.modalities.words.clip_files import make_network
from unnoise.networks.embedding import size_features
from unnoise.networks.unfilled import unfilled

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
transformers = pytest.importorskip("transformers", reason="the text encoders to compare with are transformers'")

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
ENCODERS: dict[str, dict[str, Any]] = {
    "CLIP-L": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "CLIP-G": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 20, "num_hidden_layers": 32,
        "hidden_act": "gelu", "projection_dim": 1280,
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
    x, t = torch.randn(1, 4, 8, 16, generator=rng), torch.tensor([0.4])
    tokens, summary = (torch.randn(1, *shape, generator=rng) for shape in ((77, theirs.config.cross_attention_dim), (1280,)))
    sizes = torch.tensor([[1024.0, 768.0, 0.0, 16.0, 1024.0, 1024.0]])
    added = {"text_embeds": summary, "time_ids": sizes} if name == "SDXL" else None
    cond = {"tokens": tokens, "vector": torch.cat([summary, size_features(sizes, 256)], 1)}
    close(ours(x, t, cond), theirs(x, t * 1000, tokens, added_cond_kwargs=added).sample)


@torch.no_grad()
def test_the_autoencoder_in_its_full_size() -> None:
    """Stable Diffusion 1's and XL's; its decoder of 8 x 8 codes, and its encoder's mean of that picture."""
    levels = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKL(**levels, block_out_channels=(128, 256, 512, 512), layers_per_block=2).eval()
    theirs.load_state_dict(views(theirs), assign=True)
    config, weights = read_autoencoder(Part({**theirs.config, "_class_name": "AutoencoderKL"}, theirs.state_dict(), "vae"), 64, 64)
    with unfilled():
        ours = config.build().eval()
    ours.load_state_dict(weights, assign=True)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    picture = theirs.decode(z).sample
    assert float(picture.std()) > 0.05
    assert float((ours.autoencoder.decode(z) - picture).abs().max() / picture.std()) < 3e-5  # of float32's order: 6e-6
    close(ours.autoencoder.encode(picture), theirs.encode(picture).latent_dist.mean)


@pytest.mark.parametrize("name", ENCODERS)
@torch.no_grad()
def test_a_text_encoder_in_its_full_size(name: str) -> None:
    """As SDXL reads them: the last hidden state but one, and of the second the embedding."""
    projected = "projection_dim" in ENCODERS[name]
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    config = transformers.CLIPTextConfig(vocab_size=49408, eos_token_id=49407, **ENCODERS[name])
    with torch.device("meta"):
        theirs = kind(config).eval()
    theirs.load_state_dict(views(theirs), assign=True)
    for module in theirs.modules():
        for buffer in module._buffers:  # the places, which no file has
            module._buffers[buffer] = torch.arange(77)[None]
    ours, missing = make_network(config.to_dict(), theirs.state_dict(), projected, torch.float32)
    assert not missing
    ids = torch.randint(0, 49406, (1, 77), generator=torch.Generator().manual_seed(1))
    ids[0, 40:] = 49407
    got, wanted = ours(ids), theirs(ids, output_hidden_states=True)
    close(got.hidden_states[-2], wanted.hidden_states[-2])
    close(got.last_hidden_state, wanted.last_hidden_state)
    if projected:
        close(got.text_embeds, wanted.text_embeds)

"""IP-Adapters of FLUX, tiny and with random weights, in diffusers' transformer against ours in ours."""

import pytest
import torch
from beside_diffusers import TIMES, close, randomised
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import FLUX_TABLE, flux_config, translate
from unnoise.checkpoints.foreign.adapter_names import image_prompt
from unnoise.networks.layers import patchify, unpatchify
from unnoise.networks.steering import picture_entries

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")

TOKENS, VECTOR = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1)), torch.randn(3, 10)
FLUX = {
    "in_channels": 16, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 10,
    "axes_dims_rope": (4, 4, 8), "num_layers": 3, "num_single_layers": 2, "guidance_embeds": True,
}  # fmt: skip


def linear(name: str, c_out: int, c_in: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.randn(c_out, c_in) * c_in**-0.5, f"{name}.bias": 0.3 * torch.randn(c_out)}


def flux_adapter(layers: int, width: int) -> dict[str, dict[str, Tensor]]:
    """As diffusers is given it."""
    norm = {"norm.weight": torch.randn(12), "norm.bias": torch.randn(12)}
    pairs = [linear(f"{i}.to_{which}_ip", width, 12) for i in range(layers) for which in "kv"]
    return {"image_proj": linear("proj", 4 * 12, 20) | norm, "ip_adapter": {k: v for pair in pairs for k, v in pair.items()}}


def by_xlabs(adapter: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Its tensors in XLabs' file."""
    out = {f"ip_adapter_proj_model.{k}": v for k, v in adapter["image_proj"].items()}
    for name, value in adapter["ip_adapter"].items():
        layer, which, leaf = name.split(".")
        out[f"double_blocks.{layer}.processor.ip_adapter_double_stream_{which[3]}_proj.{leaf}"] = value
    return out


def flat(adapter: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}.{k}": v for part, tensors in adapter.items() for k, v in tensors.items()}


def flux_pair() -> tuple[nn.Module, nn.Module]:
    theirs = randomised(diffusers.FluxTransformer2DModel(**FLUX), 0)
    ours = flux_config(theirs.config).build().eval()
    ours.load_state_dict(translate(theirs.state_dict(), FLUX_TABLE, ours.state_dict()))
    return theirs, ours


@torch.no_grad()
def test_ip_adapters_of_flux() -> None:
    """One in XLabs' file that sees two pictures, one in diffusers' layout that sees one, each at a scale of its own."""
    theirs, ours = flux_pair()
    x, scale = torch.randn(3, 4, 6, 10), torch.tensor([1.0, 3.5, 7.0])
    y, column = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    common = {
        "encoder_hidden_states": TOKENS, "pooled_projections": VECTOR, "timestep": TIMES, "guidance": scale,
        "img_ids": torch.stack([torch.zeros(3, 5), y, column], -1).flatten(0, 1), "txt_ids": torch.zeros(5, 3),
    }  # fmt: skip
    plain = theirs(patchify(x, 2), **common).sample
    adapters, seen, scales = [flux_adapter(3, 32) for _ in range(2)], [torch.randn(3, n, 20) for n in (2, 1)], [0.7, 0.4]
    theirs._load_ip_adapter_weights(adapters, low_cpu_mem_usage=False)
    for p in theirs.attn_processors.values():
        if hasattr(p, "scale"):
            p.scale = scales
    expected = theirs(patchify(x, 2), **common, joint_attention_kwargs={"ip_adapter_image_embeds": seen}).sample
    cond = {"tokens": TOKENS, "vector": VECTOR, "guidance": scale}
    close(ours(x, TIMES, cond), unpatchify(plain, 3, 5, 2))
    for i, (tensors, share) in enumerate(zip((by_xlabs(adapters[0]), flat(adapters[1])), scales)):
        network = image_prompt(tensors).eval()
        assert list(network.config.widths) == ours.picture_widths
        tokens = torch.cat([network.tokens(each) for each in seen[i]])
        for layer, (keys, values) in enumerate(network(tokens)):
            cond |= picture_entries(i, layer, (keys, share * values))
    close(ours(x, TIMES, cond), unpatchify(expected, 3, 5, 2))
    assert (plain - expected).abs().max() > 0.1

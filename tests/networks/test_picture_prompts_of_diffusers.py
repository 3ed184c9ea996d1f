"""IP-Adapters of FLUX and Stable Diffusion 3.5, tiny and with random weights, in diffusers' transformers against ours in ours."""

import pytest
import torch
from beside_diffusers import TIMES, close, randomised
from torch import Tensor, nn

from unnoise.checkpoints.diffusers_names import FLUX_TABLE, SD3_TABLE, SD3_UNUSED, flux_config, sd3_config, translate
from unnoise.checkpoints.foreign.adapter_names import image_prompt, redux, timed_prompt
from unnoise.control.picture_prompts import PicturePrompt, PictureWords, TimedPicturePrompt
from unnoise.networks.layers import patchify, unpatchify
from unnoise.networks.steering import Shown, picture_entries

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
PROJECTION = diffusers.models.embeddings.IPAdapterTimeImageProjection
OF_SD3 = diffusers.models.attention_processor.SD3IPAdapterJointAttnProcessor2_0

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
            cond |= picture_entries(i, layer, Shown(keys, share * values))
    close(ours(x, TIMES, cond), unpatchify(expected, 3, 5, 2))
    assert (plain - expected).abs().max() > 0.1


def by_instantx(projection: nn.Module) -> dict[str, Tensor]:
    """The tensors of diffusers' module for it under their makers' names."""
    renamed = {
        "ln0": "0.norm1", "ln1": "0.norm2", "attn.to_q": "0.to_q", "attn.to_kv": "0.to_kv", "attn.to_out.0": "0.to_out",
        "adaln_norm": "1.0", "ff.net.0.proj": "1.1", "ff.net.2": "1.3", "adaln_proj": "2.1",
    }  # fmt: skip
    out = {}
    for name, value in projection.state_dict().items():
        if name.startswith("layers."):
            layer, rest = name.removeprefix("layers.").split(".", 1)
            own, leaf = rest.rsplit(".", 1)
            name = f"layers.{layer}.{renamed[own]}.{leaf}"
        out[name] = value.clone()
    return out


def numbered(layers: list[nn.Module]) -> dict[str, Tensor]:
    return {f"{i}.{k}": v for i, layer in enumerate(layers) for k, v in layer.state_dict().items()}


def sd3_adapter(layers: int, width: int, head: int, seen: int = 20) -> dict[str, dict[str, Tensor]]:
    """As it is published, with random weights."""
    sizes = {"embed_dim": seen, "output_dim": width, "hidden_dim": 128, "heads": 2, "num_queries": 3, "timestep_in_dim": 10}
    each = [randomised(OF_SD3(width, width, head, timesteps_emb_dim=128)) for _ in range(layers)]
    return {"image_proj": by_instantx(randomised(PROJECTION(**sizes))), "ip_adapter": numbered(each)}


SD3 = {
    "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "attention_head_dim": 8, "num_attention_heads": 2,
    "joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 10, "pos_embed_max_size": 12, "num_layers": 3,
}  # fmt: skip


@pytest.mark.parametrize("qk_norm", ["rms_norm", None])
@torch.no_grad()
def test_ip_adapter_of_stable_diffusion_3(qk_norm: str | None) -> None:
    """Each row at a noise level of its own; the adapter's norms are its own, whatever the network has."""
    theirs = randomised(diffusers.SD3Transformer2DModel(**SD3, qk_norm=qk_norm), 0)
    ours = sd3_config(theirs.config).build().eval()
    ours.load_state_dict(translate(theirs.state_dict(), SD3_TABLE, ours.state_dict(), SD3_UNUSED))
    adapter, seen, x = sd3_adapter(3, 16, 8), torch.randn(3, 5, 20), torch.randn(3, 4, 8, 14)
    plain = theirs(x, TOKENS, VECTOR, TIMES * 1000).sample
    theirs._load_ip_adapter_weights(adapter, low_cpu_mem_usage=False)
    for p in theirs.attn_processors.values():
        p.scale = 0.7
    told = {"ip_adapter_image_embeds": seen}
    expected = theirs(x, TOKENS, VECTOR, TIMES * 1000, joint_attention_kwargs=told).sample
    network, cond = timed_prompt(flat(adapter)).eval(), {"tokens": TOKENS, "vector": VECTOR}
    close(ours(x, TIMES, cond), plain)
    for layer, shown in enumerate(network(seen[:, None], TIMES, torch.full((3,), 0.7))):
        cond |= picture_entries(0, layer, shown)
    close(ours(x, TIMES, cond), expected)
    assert (plain - expected).abs().max() > 0.1


def test_the_published_sizes_of_picture_prompts() -> None:
    """With nothing allocated: every tensor has its place, and each fits the network that it was made for."""
    large = {"attention_head_dim": 64, "num_attention_heads": 38, "caption_projection_dim": 2432, "num_layers": 38}
    dev = {"attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096, "num_layers": 19, "in_channels": 64}
    more = {"num_single_layers": 38, "pooled_projection_dim": 768, "axes_dims_rope": (16, 56, 56)}
    redux_of = diffusers.pipelines.flux.modeling_flux.ReduxImageEncoder
    with torch.device("meta"):
        third = sd3_config({**diffusers.SD3Transformer2DModel(num_layers=1, qk_norm="rms_norm").config, **large}).build()
        flux = flux_config({**diffusers.FluxTransformer2DModel(**FLUX).config, **dev, **more}).build()
        timed = {"image_proj": by_instantx(PROJECTION()), "ip_adapter": numbered([OF_SD3(2432, 2432, 64) for _ in range(38)])}
        made, words = timed_prompt(flat(timed)), redux(redux_of().state_dict())
        prompts = []
        for tokens in (4, 16):  # the first version and the second
            norm = {"norm.weight": torch.zeros(4096), "norm.bias": torch.zeros(4096)}
            pairs = [linear(f"{i}.to_{which}_ip", 3072, 4096) for i in range(19) for which in "kv"]
            projection = linear("proj", tokens * 4096, 768) | norm
            adapter = {"image_proj": projection, "ip_adapter": {k: v for p in pairs for k, v in p.items()}}
            prompts.append(image_prompt(by_xlabs(adapter)))
            assert prompts[-1].tokens(torch.zeros(2, 768)).shape == (1, 2 * tokens, 4096)
    TimedPicturePrompt("InstantX", made, torch.zeros(1, 729, 1152)).check_fit(third)
    PictureWords("Redux", words, torch.zeros(1, 729, 1152)).check_fit(flux)
    for network in prompts:
        PicturePrompt("XLabs", network, torch.zeros(1, 768), torch.zeros(1, 768)).check_fit(flux)

"""Networks, theirs and ours with the same weights, and LoRA files for them under every naming."""

import copy
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from beside_diffusers import TIMES, randomised
from safetensors.torch import save_file
from test_diffusers_names import UNETS, flux, sd3, unet
from torch import Tensor, nn

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
from unnoise.core.codec import UnconditionalConfig
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.preconditioning import Velocity
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow
from unnoise.modalities.words.frozen import read_encoder
from unnoise.modalities.words.joined import sdxl
from unnoise.networks.embedding import size_features
from unnoise.networks.flux import where
from unnoise.networks.layers import patchify, unpatchify

Pairs = dict[str, tuple[Tensor, Tensor]]
"""Module of theirs -> A (r, in, ...), B (rows, r, ...)."""


@cache
def networks(kind: str) -> tuple[nn.Module, nn.Module]:
    """Theirs and ours with the same weights, made once; every test takes away what it adds."""
    if kind == "SD3":
        theirs = randomised(sd3(qk_norm="rms_norm", dual_attention_layers=(0,)), 0)
        ours = sd3_config(theirs.config).build()
        weights = translate(theirs.state_dict(), SD3_TABLE, ours.state_dict(), SD3_UNUSED)
    elif kind == "FLUX":
        theirs = randomised(flux(guidance_embeds=True), 0)
        ours = flux_config(theirs.config).build()
        weights = translate(theirs.state_dict(), FLUX_TABLE, ours.state_dict())
    else:
        theirs = randomised(unet(**UNETS[kind]), 0)
        ours = unet_config(theirs.config).build()
        weights = translate(theirs.state_dict(), UNET_TABLE, ours.state_dict())
    ours.load_state_dict(weights)
    return theirs, ours.eval()


def model_of(network: nn.Module, conditioner: nn.Module | None = None) -> SimpleNamespace:
    denoiser = NetworkDenoiser(network, Gaussian(RectifiedFlow()), Velocity())
    return SimpleNamespace(denoiser=denoiser, conditioner=conditioner or UnconditionalConfig().build())


def conditioner_of(hub: Path, kind: str):
    first = read_encoder(str(hub / "text_encoder"))
    return first.build() if kind == "SD 1" else sdxl(first, read_encoder(str(hub / "text_encoder_2"))).build()


def asked() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A picture, words, a summary of them, guidance scales."""
    torch.manual_seed(3)
    return torch.randn(3, 4, 8, 12), torch.randn(3, 5, 12), torch.randn(3, 10), torch.tensor([1.0, 3.5, 7.0])


SIZES = torch.tensor([[512.0, 512, 0, 0, 1024, 1024]]).expand(3, -1)


@torch.no_grad()
def ours_says(kind: str, ours: nn.Module) -> Tensor:
    x, tokens, vector, scale = asked()
    cond = {"tokens": tokens, "vector": vector, "guidance": scale}
    if kind not in ("SD3", "FLUX"):
        cond["vector"] = torch.cat([vector, size_features(SIZES, 6)], 1)
    return ours(x, TIMES, cond)


@torch.no_grad()
def theirs_says(kind: str, theirs: nn.Module) -> Tensor:
    x, tokens, vector, scale = asked()
    if kind == "SD3":
        return theirs(x, tokens, vector, TIMES * 1000).sample
    if kind == "FLUX":
        places = where(5, 4, 6, x.device)
        return unpatchify(theirs(patchify(x, 2), tokens, vector, TIMES, places[5:], places[:5], scale).sample, 4, 6, 2)
    added = {"text_embeds": vector, "time_ids": SIZES} if kind == "SDXL" else None
    return theirs(x, TIMES * 1000, tokens, added_cond_kwargs=added).sample


# -- files -----------------------------------------------------------------------------------------------------------------------


def pairs(network: nn.Module, which: str, rank: int = 3, seed: int = 5) -> Pairs:
    """Of every linear layer and convolution whose name `which` finds, as large as the layer itself."""
    rng = torch.Generator().manual_seed(seed)
    out = {}
    for name, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and re.search(which, name):
            rows, *inputs = layer.weight.shape
            a = torch.randn(rank, *inputs, generator=rng) / layer.weight[0].numel() ** 0.5
            out[name] = a, torch.randn(rows, rank, *(1,) * (len(inputs) - 1), generator=rng) / rank**0.5
    assert out
    return out


def peft(some: Pairs, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{m}.lora_{x}.weight": t for m, pair in some.items() for x, t in zip("AB", pair)}


def kohya(some: Pairs, prefix: str = "lora_unet_", rename: Callable[[str], str] = str, alpha: float = 2.0) -> dict[str, Tensor]:
    out = {}
    for m, (a, b) in some.items():
        name = prefix + rename(m).replace(".", "_")
        out |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": torch.tensor(alpha)}
    return out


def before_2023(some: Pairs, prefix: str) -> dict[str, Tensor]:
    """Attention alone; to_out lacks its number."""
    out = {}
    for m, pair in some.items():
        block, layer = m.removesuffix(".0").rsplit(".", 1)
        out |= {f"{prefix}{block}.processor.{layer}_lora.{x}.weight": t for x, t in zip(("down", "up"), pair)}
    return out


def joined(some: Pairs, table: Mapping[str, list[str]]) -> tuple[Pairs, Pairs]:
    """LoRAs of the original network's layers, one where diffusers has several, and the same as theirs: A for each, B cut."""
    rng = torch.Generator().manual_seed(7)
    originals, theirs = {}, {}
    for original, modules in table.items():
        a = some[modules[0]][0]
        b = [torch.randn(len(some[m][1]), len(a), generator=rng) / len(a) ** 0.5 for m in modules]
        originals[original] = a, torch.cat(b)
        theirs |= {m: (a, x) for m, x in zip(modules, b)}
    return originals, theirs


def unpacked(tensors: Mapping[str, Tensor], prefix: str) -> Pairs:
    """The way back from `peft`."""
    names = {k.removeprefix(prefix).removesuffix(".lora_A.weight") for k in tensors if k.endswith(".lora_A.weight")}
    return {m: (tensors[f"{prefix}{m}.lora_A.weight"], tensors[f"{prefix}{m}.lora_B.weight"]) for m in names}


def flux_originals(depth: int, singles: int) -> dict[str, list[str]]:
    """As in the published file."""
    out = {"img_in": ["x_embedder"], "txt_in": ["context_embedder"], "final_layer.linear": ["proj_out"]}
    for theirs, ours in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance")):
        out |= {f"{theirs}.{x}_layer": [f"time_text_embed.{ours}_embedder.linear_{i}"] for x, i in (("in", 1), ("out", 2))}
    for i in range(depth):
        for short, norm, ff, q, o in (
            ("img", "norm1", "ff", "to_{}", "to_out.0"),
            ("txt", "norm1_context", "ff_context", "add_{}_proj", "to_add_out"),
        ):
            at, to = f"double_blocks.{i}.{short}", f"transformer_blocks.{i}"
            out |= {f"{at}_attn.qkv": [f"{to}.attn.{q.format(x)}" for x in "qkv"], f"{at}_attn.proj": [f"{to}.attn.{o}"]}
            out |= {
                f"{at}_mod.lin": [f"{to}.{norm}.linear"],
                f"{at}_mlp.0": [f"{to}.{ff}.net.0.proj"],
                f"{at}_mlp.2": [f"{to}.{ff}.net.2"],
            }
    for i in range(singles):
        at, to = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
        out |= {f"{at}.linear1": [*(f"{to}.attn.to_{x}" for x in "qkv"), f"{to}.proj_mlp"], f"{at}.linear2": [f"{to}.proj_out"]}
        out[f"{at}.modulation.lin"] = [f"{to}.norm.linear"]
    return out


def merged(network: nn.Module, some: Pairs, scale: float) -> nn.Module:
    """The oracle: a copy with W + scale B A."""
    network = copy.deepcopy(network)
    for m, (a, b) in some.items():
        weight = network.get_submodule(m).weight
        weight.data += scale * (b.flatten(1) @ a.flatten(1)).reshape(weight.shape)
    return network


def written(folder: Path, tensors: Mapping[str, Tensor], name: str = "lora", metadata: dict[str, str] | None = None) -> Path:
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / f"{name}.safetensors", metadata)
    return folder / f"{name}.safetensors"


UNET_LAYERS = r"attn\d\.to|ff\.net|proj_in|proj_out|conv1|conv_shortcut|samplers|time_emb_proj|conv_in|time_embedding"

JOINT_LAYERS = r"blocks\.\d\.(attn2?\.(to|add)|ff|norm|proj)|x_embedder|context_embedder|proj_out|norm_out|pos_embed"

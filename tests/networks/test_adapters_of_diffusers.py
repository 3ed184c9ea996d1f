"""ControlNets, T2I-Adapters and IP-Adapters of diffusers, tiny and with random weights, in its networks against ours in ours."""

import copy
from collections.abc import Mapping

import pytest
import torch
from beside_diffusers import TIMES, close, randomised
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
from unnoise.checkpoints.foreign.adapter_names import image_prompt, steering
from unnoise.core.errors import InputError
from unnoise.networks.embedding import size_features
from unnoise.networks.layers import patchify, unpatchify
from unnoise.networks.steering import Shown, Steering, picture_entries, residual

diffusers = pytest.importorskip("diffusers", reason="the networks to compare with are diffusers'")
TOKENS, VECTOR = torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(1)), torch.randn(3, 10)
SIZES = torch.tensor([[512.0, 512, 0, 0, 1024, 1024], [480, 640, 12, 0, 896, 1152], [64, 2048, 0, 700, 1536, 640]])


UNET = {
    "in_channels": 4, "block_out_channels": (8, 16, 16), "layers_per_block": 2, "norm_num_groups": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"), "cross_attention_dim": 12,
    "attention_head_dim": 2,
}  # fmt: skip
XL = {
    **UNET, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": [1, 2, 4],
    "transformer_layers_per_block": [1, 1, 3], "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 6, "projection_class_embeddings_input_dim": 46,
}  # fmt: skip
FAMILIES = {"SD 1": UNET, "SD 2": {**UNET, "attention_head_dim": [1, 2, 4], "use_linear_projection": True}, "SDXL": XL}


def unets(name: str) -> tuple[nn.Module, nn.Module]:
    """Theirs, and ours with the same weights."""
    config = FAMILIES[name]
    up = tuple(kind.replace("Down", "Up") for kind in reversed(config["down_block_types"]))
    theirs = randomised(diffusers.UNet2DConditionModel(**config, out_channels=4, up_block_types=up), 0)
    return theirs, ours_like(theirs)


def ours_like(theirs: nn.Module) -> nn.Module:
    ours = unet_config(theirs.config).build().eval().requires_grad_(False)
    ours.load_state_dict(translate(theirs.state_dict(), UNET_TABLE, ours.state_dict()))
    return ours


@pytest.fixture(scope="module")
def pairs() -> Mapping[str, tuple[nn.Module, nn.Module]]:
    return {name: unets(name) for name in FAMILIES}


def told(name: str) -> tuple[dict, dict]:
    """What theirs and ours are told beside the picture, in this family."""
    added = {"added_cond_kwargs": {"text_embeds": VECTOR, "time_ids": SIZES}} if name == "SDXL" else {}
    return added, {"tokens": TOKENS, "vector": torch.cat([VECTOR, size_features(SIZES, 6)], 1)}


def ours_of(theirs: nn.Module) -> Steering:
    return steering(type(theirs).__name__, dict(theirs.config), theirs.state_dict()).eval().requires_grad_(False)


def entries(network: Steering, said: Mapping[str, list[Tensor]], places: Mapping[str, int]) -> dict[str, Tensor]:
    return {
        residual(kind, i): several[network.source(i, len(several), places[kind])]
        for kind, several in said.items()
        for i in range(places[kind])
    }


@pytest.mark.parametrize("size", [(8, 12), (7, 9)], ids=str)  # the second halves to 4 x 5 and to 2 x 3
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_control_net_of_stable_diffusion(name: str, size: tuple[int, int], pairs: Mapping) -> None:
    theirs, ours = pairs[name]
    order = "bgr" if name == "SD 2" else "rgb"
    shape = {"conditioning_embedding_out_channels": (4, 6, 8, 8), "controlnet_conditioning_channel_order": order}
    control = randomised(diffusers.ControlNetModel(**FAMILIES[name], **shape), 1)
    x, picture = torch.randn(3, 4, *size), torch.rand(3, 3, *(8 * n for n in size))
    added, cond = told(name)
    down, middle = control(x, TIMES * 1000, TOKENS, picture, return_dict=False, **added)
    expected = theirs(
        x, TIMES * 1000, TOKENS, down_block_additional_residuals=down, mid_block_additional_residual=middle, **added
    ).sample
    mine = ours_of(control)
    assert mine.misfit(ours) == ""
    said = mine(x, TIMES, {**cond, **mine.hint(picture, lambda x: x)})
    for a, b in zip([*said["skip"], *said["middle"]], [*down, middle], strict=True):
        close(a, b)
    close(ours(x, TIMES, {**cond, **entries(mine, said, ours.places)}), expected)
    assert (theirs(x, TIMES * 1000, TOKENS, **added).sample - expected).abs().max() > 0.1


@torch.no_grad()
def test_control_net_that_tells_all_positions_the_same(pairs: Mapping) -> None:
    """As the one for shuffled pictures."""
    shape = {"conditioning_embedding_out_channels": (4, 6, 8, 8), "global_pool_conditions": True}
    control = randomised(diffusers.ControlNetModel(**UNET, **shape), 1)
    x, picture = torch.randn(3, 4, 8, 12), torch.rand(3, 3, 64, 96)
    down, middle = control(x, TIMES * 1000, TOKENS, picture, return_dict=False)
    mine = ours_of(control)
    assert mine.one_sided
    said = mine(x, TIMES, {"tokens": TOKENS, **mine.hint(picture, lambda x: x)})
    for a, b in zip([*said["skip"], *said["middle"]], [*down, middle], strict=True):
        assert a.shape[2:] == (1, 1)
        close(a, b)
    theirs, ours = pairs["SD 1"]
    more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    expected = theirs(x, TIMES * 1000, TOKENS, **more).sample
    close(ours(x, TIMES, {"tokens": TOKENS, **entries(mine, said, ours.places)}), expected)


SMALL = {"down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D", "cross_attention_dim": None}


@torch.no_grad()
def test_small_control_net(pairs: Mapping) -> None:
    """As the small ones for SDXL: no transformers, no words, one residual block in the middle."""
    ours = pairs["SDXL"][1]
    shape = {"conditioning_embedding_out_channels": (4, 6, 8, 8)}
    control = randomised(diffusers.ControlNetModel(**{**XL, **SMALL}, **shape), 1)
    x, picture = torch.randn(3, 4, 8, 12), torch.rand(3, 3, 64, 96)
    added, cond = told("SDXL")
    down, middle = control(x, TIMES * 1000, TOKENS, picture, return_dict=False, **added)
    mine = ours_of(control)
    assert mine.misfit(ours) == ""
    said = mine(x, TIMES, {**cond, **mine.hint(picture, lambda x: x)})
    for a, b in zip([*said["skip"], *said["middle"]], [*down, middle], strict=True):
        close(a, b)


@pytest.mark.parametrize("modes", [[2], [5, 0]], ids=["one picture", "two at once"])
@torch.no_grad()
def test_control_net_for_several_kinds_of_pictures(modes: list[int], pairs: Mapping) -> None:
    """Theirs row by row: in a batch each row would attend to the others."""
    ours = pairs["SDXL"][1]
    union = {"num_trans_channel": 8, "num_proj_channel": 8, "num_trans_head": 2, "num_trans_layer": 2}
    shape = {"conditioning_embedding_out_channels": (4, 6, 8, 8)}
    control = randomised(diffusers.ControlNetUnionModel(**XL, **shape, **union), 1)
    x, pictures = torch.randn(3, 4, 8, 12), [torch.rand(3, 3, 64, 96) for _ in modes]
    added, cond = told("SDXL")
    kinds = torch.zeros(1, 6).scatter(1, torch.tensor([modes]), 1)
    rows = []
    for i in (slice(0, 1), slice(1, 2), slice(2, 3)):
        more = {"added_cond_kwargs": {k: v[i] for k, v in added["added_cond_kwargs"].items()}}
        shown = [p[i] for p in pictures]
        down, middle = control(x[i], TIMES[i] * 1000, TOKENS[i], shown, kinds, modes, return_dict=False, **more)
        rows.append([*down, middle])
    expected = [torch.cat(r) for r in zip(*rows)]
    mine = ours_of(control)
    assert mine.misfit(ours) == ""
    hint = torch.stack([mine.hint(p, lambda x: x)["hint"] for p in pictures], 1)
    said = mine(x, TIMES, {**cond, "hint": hint, "mode": torch.tensor([modes] * 3)})
    for a, b in zip([*said["skip"], *said["middle"]], expected, strict=True):
        close(a, b)
    other = mine(x, TIMES, {**cond, "hint": hint, "mode": (torch.tensor([modes] * 3) + 1) % 6})
    assert (other["middle"][0] - said["middle"][0]).abs().max() > 0.1


T2I = {
    "full_adapter": ("SD 1", {"channels": [8, 16, 16], "num_res_blocks": 2, "downscale_factor": 8}),
    "light_adapter": ("SD 1", {"channels": [8, 16], "num_res_blocks": 2, "downscale_factor": 8, "in_channels": 1}),
    "full_adapter_xl": ("SDXL", {"channels": [8, 16, 16, 16], "num_res_blocks": 1, "downscale_factor": 16}),
}


@pytest.mark.parametrize("size", [(8, 12), (6, 10)], ids=str)  # the second halves to 3 x 5 and to 2 x 3
@pytest.mark.parametrize("kind", T2I)
@torch.no_grad()
def test_t2i_adapter(kind: str, size: tuple[int, int], pairs: Mapping) -> None:
    name, sizes = T2I[kind]
    theirs, ours = pairs[name]
    adapter = randomised(diffusers.T2IAdapter(adapter_type=kind, **sizes), 1)
    x, picture = torch.randn(3, 4, *size), torch.rand(3, sizes.get("in_channels", 3), *(8 * n for n in size))
    added, cond = told(name)
    features = adapter(picture)
    residuals = {"down_intrablock_additional_residuals": [f.clone() for f in features]}
    expected = theirs(x, TIMES * 1000, TOKENS, **residuals, **added).sample
    mine = ours_of(adapter)
    assert mine.misfit(ours) == ""
    hint = mine.hint(picture.expand(-1, 3, -1, -1), lambda x: x)
    for a, b in zip(hint.values(), features, strict=True):
        close(a, b)
    close(ours(x, TIMES, {**cond, **entries(mine, mine(x, TIMES, hint), ours.places)}), expected)


SD3 = {
    "sample_size": 16, "patch_size": 2, "in_channels": 4, "out_channels": 4, "attention_head_dim": 8, "num_attention_heads": 2,
    "joint_attention_dim": 12, "caption_projection_dim": 16, "pooled_projection_dim": 10, "pos_embed_max_size": 12,
    "qk_norm": "rms_norm", "dual_attention_layers": (0,),
}  # fmt: skip


def sd3_pair() -> tuple[nn.Module, nn.Module]:
    theirs = randomised(diffusers.SD3Transformer2DModel(num_layers=5, **SD3), 0)
    ours = sd3_config(theirs.config).build().eval().requires_grad_(False)
    ours.load_state_dict(translate(theirs.state_dict(), SD3_TABLE, ours.state_dict(), SD3_UNUSED))
    return theirs, ours


@pytest.mark.parametrize(("layers", "summary"), [(2, True), (3, False)])
@torch.no_grad()
def test_control_net_of_stable_diffusion_3(layers: int, summary: bool) -> None:
    theirs, ours = sd3_pair()
    control = randomised(diffusers.SD3ControlNetModel(num_layers=layers, force_zeros_for_pooled_projection=not summary, **SD3), 1)
    x, picture, cond = torch.randn(3, 4, 8, 14), torch.randn(3, 4, 8, 14), {"tokens": TOKENS, "vector": VECTOR}
    pooled = VECTOR if summary else torch.zeros_like(VECTOR)
    blocks = control(x, picture, 1.0, TOKENS, pooled, TIMES * 1000).controlnet_block_samples
    expected = theirs(x, TOKENS, VECTOR, TIMES * 1000, block_controlnet_hidden_states=blocks).sample
    mine = ours_of(control)
    assert mine.misfit(ours) == ""
    said = mine(x, TIMES, {**cond, **mine.hint(torch.zeros(0), lambda _: picture)})
    for a, b in zip(said["block"], blocks, strict=True):
        close(a, b)
    close(ours(x, TIMES, {**cond, **entries(mine, said, ours.places)}), expected)


@torch.no_grad()
def test_control_net_without_words() -> None:
    """As of Stable Diffusion 3.5 large: it begins behind the transformer's own patches and positions."""
    theirs, ours = sd3_pair()
    wordless = {"joint_attention_dim": None, "use_pos_embed": False, "pos_embed_type": None, "qk_norm": None}
    config = {**SD3, **wordless, "dual_attention_layers": (), "force_zeros_for_pooled_projection": False}
    control = randomised(diffusers.SD3ControlNetModel(num_layers=2, **config), 1)
    x, picture, cond = torch.randn(3, 4, 8, 14), torch.randn(3, 4, 8, 14), {"tokens": TOKENS, "vector": VECTOR}
    blocks = control(theirs.pos_embed(x), picture, 1.0, None, VECTOR, TIMES * 1000).controlnet_block_samples
    expected = theirs(x, TOKENS, VECTOR, TIMES * 1000, block_controlnet_hidden_states=blocks).sample
    mine = ours_of(control)
    assert mine.misfit(ours) == ""
    said = mine(mine.seen(ours, x, cond), TIMES, {**cond, **mine.hint(torch.zeros(0), lambda _: picture)})
    for a, b in zip(said["block"], blocks, strict=True):
        close(a, b)
    close(ours(x, TIMES, {**cond, **entries(mine, said, ours.places)}), expected)


FLUX = {
    "in_channels": 16, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 12, "pooled_projection_dim": 10,
    "axes_dims_rope": (4, 4, 8),
}  # fmt: skip


@pytest.mark.parametrize("union", [False, True], ids=["one kind", "union"])
@torch.no_grad()
def test_control_net_of_flux(union: bool) -> None:
    theirs = randomised(diffusers.FluxTransformer2DModel(num_layers=3, num_single_layers=4, guidance_embeds=True, **FLUX), 0)
    ours = flux_config(theirs.config).build().eval()
    ours.load_state_dict(translate(theirs.state_dict(), FLUX_TABLE, ours.state_dict()))
    control = randomised(
        diffusers.FluxControlNetModel(
            num_layers=2, num_single_layers=2, guidance_embeds=union, num_mode=7 if union else None, **FLUX
        ), 1,
    )  # fmt: skip
    x, picture, scale, mode = torch.randn(3, 4, 6, 10), torch.randn(3, 4, 6, 10), torch.tensor([1.0, 3.5, 7.0]), [0, 2, 6]
    y, column = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    places = torch.stack([torch.zeros(3, 5), y, column], -1).flatten(0, 1)
    common = {"pooled_projections": VECTOR, "timestep": TIMES, "img_ids": places, "txt_ids": torch.zeros(5, 3)}
    out = control(
        patchify(x, 2), patchify(picture, 2), torch.tensor(mode)[:, None] if union else None, encoder_hidden_states=TOKENS,
        guidance=scale if union else None, **common,
    )  # fmt: skip
    blocks, singles = out.controlnet_block_samples, out.controlnet_single_block_samples
    residuals = {"controlnet_block_samples": blocks, "controlnet_single_block_samples": singles}
    expected = theirs(patchify(x, 2), encoder_hidden_states=TOKENS, guidance=scale, **common, **residuals).sample
    mine = ours_of(control)
    assert mine.misfit(ours) == ""
    cond = {"tokens": TOKENS, "vector": VECTOR, "guidance": scale}
    own = mine.hint(torch.zeros(0), lambda _: picture) | ({"mode": torch.tensor(mode)} if union else {})
    said = mine(x, TIMES, {**cond, **own})
    for a, b in zip([*said["block"], *said["single"]], [*blocks, *singles], strict=True):
        close(a, b)
    close(ours(x, TIMES, {**cond, **entries(mine, said, ours.places)}), unpatchify(expected, 3, 5, 2))


@torch.no_grad()
def test_control_net_of_flux_that_sees_pixels() -> None:
    """As those of XLabs: the picture is not encoded, the residuals of few blocks go round."""
    theirs = randomised(diffusers.FluxTransformer2DModel(num_layers=3, num_single_layers=1, guidance_embeds=True, **FLUX), 0)
    ours = flux_config(theirs.config).build().eval()
    ours.load_state_dict(translate(theirs.state_dict(), FLUX_TABLE, ours.state_dict()))
    kind = {"num_layers": 2, "num_single_layers": 0, "patch_size": 2, "conditioning_embedding_channels": 4}
    control = randomised(diffusers.FluxControlNetModel(guidance_embeds=True, **kind, **FLUX), 1)
    x, picture, scale = torch.randn(3, 4, 6, 10), torch.rand(3, 3, 48, 80), torch.tensor([1.0, 3.5, 7.0])
    y, column = torch.meshgrid(torch.arange(3.0), torch.arange(5.0), indexing="ij")
    places = torch.stack([torch.zeros(3, 5), y, column], -1).flatten(0, 1)
    common = {"pooled_projections": VECTOR, "timestep": TIMES, "img_ids": places, "txt_ids": torch.zeros(5, 3), "guidance": scale}
    out = control(patchify(x, 2), 2 * picture - 1, encoder_hidden_states=TOKENS, **common)
    blocks = out.controlnet_block_samples
    expected = theirs(
        patchify(x, 2), encoder_hidden_states=TOKENS, controlnet_block_samples=blocks, controlnet_blocks_repeat=True, **common
    ).sample
    mine = ours_of(control)
    cond = {"tokens": TOKENS, "vector": VECTOR, "guidance": scale}
    said = mine(x, TIMES, {**cond, **mine.hint(picture, lambda x: x[:0])})
    for a, b in zip(said["block"], blocks, strict=True):
        close(a, b)
    places_of_blocks = {"block": ours.places["block"]}
    told = entries(mine, {"block": said["block"]}, places_of_blocks)
    close(ours(x, TIMES, {**cond, **told}), unpatchify(expected, 3, 5, 2))


def projection(kind: str, seen: int = 20, token_dim: int = 12) -> dict[str, Tensor]:
    """The `image_proj` of an IP-Adapter's file: Linear and LayerNorm layers by their makers' names, and latents."""

    def layer(name: str, c_out: int, c_in: int = 0, bias: bool = True) -> dict[str, Tensor]:
        shape = (c_out, c_in) if c_in else (c_out,)
        weight = {f"{name}.weight": torch.randn(shape) * (c_in**-0.5 if c_in else 0.3)}
        return weight | ({f"{name}.bias": 0.3 * torch.randn(c_out)} if bias else {})

    if kind == "plain":
        return layer("proj", 4 * token_dim, seen) | layer("norm", token_dim)
    if kind == "face id":
        return layer("proj.0", 40, seen) | layer("proj.2", 4 * token_dim, 40) | layer("norm", token_dim)
    if kind == "full face":
        return layer("proj.0", seen, seen) | layer("proj.2", token_dim, seen) | layer("proj.3", token_dim)
    out = {"latents": torch.randn(1, 5, 16)} | layer("proj_in", 16, seen)
    out |= layer("proj_out", token_dim, 16) | layer("norm_out", token_dim)
    for i in range(4):  # diffusers takes every resampler to have four blocks, of heads of 64 channels and mlps of 4 times the width
        out |= layer(f"layers.{i}.0.norm1", 16) | layer(f"layers.{i}.0.norm2", 16) | layer(f"layers.{i}.1.0", 16)
        for name, c_out, c_in in (
            ("0.to_q", 128, 16),
            ("0.to_kv", 256, 16),
            ("0.to_out", 16, 128),
            ("1.1", 64, 16),
            ("1.3", 16, 64),
        ):
            out |= layer(f"layers.{i}.{name}", c_out, c_in, bias=False)
    return out


def ip_adapter(kind: str, theirs: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The tensors of an IP-Adapter's file for their network."""
    pairs = {}
    for i, name in enumerate(theirs.attn_processors):
        if name.endswith("attn2.processor"):
            module = theirs.get_submodule(name.removesuffix(".processor"))
            for which in "kv":
                pairs[f"{i}.to_{which}_ip.weight"] = torch.randn(module.to_q.out_features, 12) * 12**-0.5
    return {"image_proj": projection(kind), "ip_adapter": pairs}


@pytest.mark.parametrize(
    ("name", "kinds"), [("SD 1", ["plain"]), ("SD 1", ["plus", "full face"]), ("SDXL", ["plus", "plain"]), ("SDXL", ["face id"])]
)
@torch.no_grad()
def test_ip_adapter(name: str, kinds: list[str], pairs: Mapping) -> None:
    """Two pictures for the first adapter, one for the second, each adapter at a scale of its own."""
    torch.manual_seed(0)
    theirs, ours = copy.deepcopy(pairs[name][0]), pairs[name][1]
    files = [ip_adapter(kind, theirs) for kind in kinds]
    theirs._load_ip_adapter_weights(files, low_cpu_mem_usage=False)
    scales = [0.7, 0.4][: len(kinds)]
    for p in theirs.attn_processors.values():
        if hasattr(p, "scale"):
            p.scale = scales
    x = torch.randn(3, 4, 8, 12)
    seen = [torch.randn(3, 2 - i, *([9] if kind in ("plus", "full face") else []), 20) for i, kind in enumerate(kinds)]
    added, cond = told(name)
    added = {"added_cond_kwargs": {**added.get("added_cond_kwargs", {}), "image_embeds": seen}}
    expected = theirs(x, TIMES * 1000, TOKENS, **added).sample
    for i, (file, scale) in enumerate(zip(files, scales)):
        flat = {f"{part}.{k}": v for part, tensors in file.items() for k, v in tensors.items()}
        network = image_prompt(flat).eval()
        assert list(network.config.widths) == ours.picture_widths
        tokens = torch.cat([network.tokens(each) for each in seen[i]])
        for layer, (keys, values) in enumerate(network(tokens)):
            cond |= picture_entries(i, layer, Shown(keys, scale * values))
    close(ours(x, TIMES, cond), expected)


def test_the_published_sizes() -> None:
    """The published configurations, with nothing allocated: every tensor has its place, and the adapters fit the networks."""
    xl = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": 2048,
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip
    medium = {
        "attention_head_dim": 64, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192,
        "sample_size": 128,
    }  # fmt: skip
    up = ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",)
    with torch.device("meta"):
        first = unet_config(diffusers.UNet2DConditionModel(cross_attention_dim=768).config).build()
        large = unet_config({**diffusers.UNet2DConditionModel().config, **xl, "up_block_types": up}).build()
        third = sd3_config({**diffusers.SD3Transformer2DModel(num_layers=1).config, **medium, "num_layers": 24}).build()
        dev = flux_config({**diffusers.FluxTransformer2DModel(**FLUX).config, **PUBLISHED_FLUX}).build()
        for theirs, network in (
            (diffusers.ControlNetModel(cross_attention_dim=768), first),
            (diffusers.T2IAdapter(), first),
            (diffusers.T2IAdapter(channels=[320, 640, 1280], num_res_blocks=4, adapter_type="light_adapter"), first),
            (diffusers.ControlNetModel(**xl), large),
            (diffusers.ControlNetModel(**{**xl, "transformer_layers_per_block": [1, 1, 1]}), large),  # "mid"
            (diffusers.ControlNetModel(**{**xl, **SMALL}), large),
            (diffusers.ControlNetUnionModel(**xl, num_control_type=8), large),
            (diffusers.T2IAdapter(adapter_type="full_adapter_xl", downscale_factor=16), large),
            (diffusers.SD3ControlNetModel(num_layers=6, **medium), third),
            (diffusers.FluxControlNetModel(num_layers=5, num_single_layers=10, guidance_embeds=True, num_mode=10), dev),
        ):
            assert ours_of(theirs).misfit(network) == ""
    widths = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]  # of h94's ip-adapter_sd15, in order
    assert first.picture_widths == widths
    assert len(large.picture_widths) == 70


PUBLISHED_FLUX = {
    "in_channels": 64, "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096, "num_layers": 19,
    "num_single_layers": 38, "pooled_projection_dim": 768, "axes_dims_rope": (16, 56, 56), "guidance_embeds": True,
}  # fmt: skip


def test_what_fits_no_network_is_refused(pairs: Mapping) -> None:
    theirs, other = pairs["SD 1"][0], pairs["SDXL"][1]
    control = steering("ControlNetModel", *(lambda c: (dict(c.config), c.state_dict()))(diffusers.ControlNetModel(**UNET)))
    assert "vector_dim 0" in control.misfit(other)
    assert "steers a U-Net of Stable Diffusion, not a SD3" in control.misfit(sd3_pair()[1])
    file = {f"{part}.{k}": v for part, of in ip_adapter("plain", theirs).items() for k, v in of.items()}
    for broken, message in (
        ({k: v for k, v in file.items() if k != "ip_adapter.1.to_v_ip.weight"}, "lacks 'ip_adapter"),
        ({"a.weight": torch.zeros(2)}, "no image_proj of a known kind"),
    ):
        with pytest.raises(InputError, match=message):
            image_prompt(broken)
    odd = {"num_layers": 1, "num_single_layers": 0, "patch_size": 1, "conditioning_embedding_channels": 8}
    with pytest.raises(InputError, match="conditioning_embedding_channels 8 in patches of 1: none of XLabs' kind"):
        steering("FluxControlNetModel", {**FLUX, **odd}, {})
    with pytest.raises(InputError, match="UNet2DConditionModel, which is not run here as an adapter"):
        steering("UNet2DConditionModel", {}, {})

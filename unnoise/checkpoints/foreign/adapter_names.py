"""ControlNets, T2I-Adapters and IP-Adapters in our terms: configurations, and which tensors of theirs make up each of ours.

ControlNets and T2I-Adapters are folders of diffusers; the tables are read as `diffusers_names` says. IP-Adapters are single files
in the names of their makers (h94/IP-Adapter), which say nothing of themselves: what they are is read off the shapes.

    image_proj.*                             the projection: `proj` one layer, `proj.0` ... two, `latents` a resampler
    ip_adapter.(2 k + 1).to_k_ip, to_v_ip    of cross-attention layer k of a U-Net
    ip_adapter.k.to_k_ip, to_v_ip            of joint block k of FLUX, with biases
    ip_adapter.k.norm_ip, to_k_ip ...        of block k of Stable Diffusion 3.5, whose resampler is told the noise level
    ip_adapter_proj_model.*, double_blocks.k.processor.ip_adapter_double_stream_k_proj, ..._v_proj    the same by XLabs
"""

import re
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor

from unnoise.checkpoints.diffusers_names import (
    FLUX_TABLE,
    SD3_TABLE,
    UNET_TABLE,
    Table,
    flux_config,
    sd3_config,
    translate,
    unet_config,
)
from unnoise.checkpoints.foreign.parts import AsType
from unnoise.core.errors import InputError
from unnoise.networks.controlnet import (
    FluxControlNetConfig,
    SD3ControlNetConfig,
    SD3PictureControlNetConfig,
    SDControlNetConfig,
    SDUnionControlNetConfig,
)
from unnoise.networks.image_prompt import (
    EachConfig,
    FaceConfig,
    ImagePrompt,
    ImagePromptConfig,
    ProjectionConfig,
    Redux,
    ReduxConfig,
    ResamplerConfig,
    SummaryConfig,
)
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.networks.steering import Steering
from unnoise.networks.t2i_adapter import FullConfig, LightConfig, T2IAdapterConfig, XLConfig
from unnoise.networks.timed_prompt import TimedPrompt, TimedPromptConfig
from unnoise.networks.unfilled import unfilled

SteeringConfig = SDControlNetConfig | SD3ControlNetConfig | SD3PictureControlNetConfig | FluxControlNetConfig | T2IAdapterConfig


def _trunk(table: Table) -> dict[str, tuple[str, ...]]:
    return {f"trunk.{ours}": theirs for ours, theirs in table.items()}


CONTROLNET_TABLE: Table = {
    **_trunk(UNET_TABLE),
    "embed.first": ("controlnet_cond_embedding.conv_in",),
    "embed.convs.*": ("controlnet_cond_embedding.blocks.*",),
    "embed.last": ("controlnet_cond_embedding.conv_out",),
    "skips.*": ("controlnet_down_blocks.*",),
    "middle": ("controlnet_mid_block",),
}

UNION_CONTROLNET_TABLE: Table = {
    **CONTROLNET_TABLE,
    "tasks": ("task_embedding",),  # a tensor, not a module
    "describe.*.norm1": ("transformer_layes.*.ln_1",),  # so misspelt
    "describe.*.qkv.weight": ("transformer_layes.*.attn.in_proj_weight",),
    "describe.*.qkv.bias": ("transformer_layes.*.attn.in_proj_bias",),
    "describe.*.out": ("transformer_layes.*.attn.out_proj",),
    "describe.*.norm2": ("transformer_layes.*.ln_2",),
    "describe.*.mlp1": ("transformer_layes.*.mlp.c_fc",),
    "describe.*.mlp2": ("transformer_layes.*.mlp.c_proj",),
    "shift": ("spatial_ch_projs",),
    "shown.hidden": ("control_add_embedding.linear_1",),
    "shown.out": ("control_add_embedding.linear_2",),
}

SD3_CONTROLNET_TABLE: Table = {
    **_trunk(SD3_TABLE),
    **SD3_TABLE,  # of one without words, which has nothing but blocks
    "embed": ("pos_embed_input.proj",),
    "residuals.*": ("controlnet_blocks.*",),
}

FLUX_CONTROLNET_TABLE: Table = {
    **_trunk(FLUX_TABLE),
    "embed": ("controlnet_x_embedder",),
    "modes": ("controlnet_mode_embedder",),
    "pixels.first": ("input_hint_block.conv_in",),
    "pixels.convs.*": ("input_hint_block.blocks.*",),
    "pixels.last": ("input_hint_block.conv_out",),
    "residuals.*": ("controlnet_blocks.*",),
    "single_residuals.*": ("controlnet_single_blocks.*",),
}

T2I_ADAPTER_TABLE: Table = {
    "first": ("adapter.conv_in",),
    "levels.*.enter": ("adapter.body.*.in_conv",),
    "levels.*.blocks.*.conv1": ("adapter.body.*.resnets.*.block1",),
    "levels.*.blocks.*.conv2": ("adapter.body.*.resnets.*.block2",),
    "levels.*.leave": ("adapter.body.*.out_conv",),
}

SUMMARY_TABLE: Table = {"out": ("proj",), "norm": ("norm",)}
TWO_LAYERS_TABLE: Table = {"hidden.0": ("proj.0",), "out": ("proj.2",), "norm": ("norm",)}
EACH_TABLE: Table = {"hidden": ("proj.0",), "out": ("proj.2",), "norm": ("proj.3",)}
RESAMPLER_TABLE: Table = {
    "queries": ("latents",),  # a tensor, not a module
    "enter": ("proj_in",),
    "leave": ("proj_out",),
    "norm": ("norm_out",),
    "blocks.*.norm_seen": ("layers.*.0.norm1",),
    "blocks.*.norm": ("layers.*.0.norm2",),
    "blocks.*.q": ("layers.*.0.to_q",),
    "blocks.*.kv": ("layers.*.0.to_kv",),
    "blocks.*.out": ("layers.*.0.to_out",),
    "blocks.*.mlp.*": ("layers.*.1.*",),
}

FACE_TABLE: Table = {
    **{ours: (f"perceiver_resampler.{theirs}",) for ours, (theirs,) in RESAMPLER_TABLE.items() if ours != "queries"},
    "hidden.0": ("proj.0",),
    "out": ("proj.2",),
    "face_norm": ("norm",),
}

TIMED_TABLE: Table = {
    "time.hidden": ("image_proj.time_embedding.linear_1",),
    "time.out": ("image_proj.time_embedding.linear_2",),
    **{ours.replace("blocks.*", "blocks.*.block"): (f"image_proj.{theirs}",) for ours, (theirs,) in RESAMPLER_TABLE.items()},
    "blocks.*.modulation": ("image_proj.layers.*.2.1",),
    "layers.*.modulation": ("ip_adapter.*.norm_ip.linear",),
    "layers.*.keys": ("ip_adapter.*.to_k_ip",),
    "layers.*.values": ("ip_adapter.*.to_v_ip",),
    "layers.*.q_norm": ("ip_adapter.*.norm_q",),
    "layers.*.k_norm": ("ip_adapter.*.norm_k",),
    "layers.*.own_norm": ("ip_adapter.*.norm_ip_k",),
}


def controlnet_config(theirs: Mapping[str, Any]) -> SDControlNetConfig:
    """From the config.json of a ControlNetModel, and whether it has holes, which its maker's name alone says.

    InputError for one that is built otherwise than Stable Diffusion's, and for one with holes for SDXL: what such are shown there
    differs from maker to maker.
    """
    hint = tuple(theirs["conditioning_embedding_out_channels"])
    bgr = theirs.get("controlnet_conditioning_channel_order", "rgb") == "bgr"
    trunk, holes = _way_down(theirs), bool(theirs.get("holes"))
    if holes and trunk.vector_dim:
        raise InputError(f"a ControlNet of SDXL {_FILLS}")
    return SDControlNetConfig(trunk, hint, bgr, bool(theirs.get("global_pool_conditions")), holes)


def union_controlnet_config(theirs: Mapping[str, Any]) -> SDUnionControlNetConfig:
    """From the config.json of a ControlNetUnionModel. InputError for one whose description of a picture has another width, and for
    what those for one kind alone may do."""
    trunk = _way_down(theirs)
    width = trunk.widths[0]
    for name in ("num_trans_channel", "num_proj_channel"):
        if theirs.get(name, width) != width:
            raise InputError(f"{name} {theirs[name]}: a ControlNet for several kinds has {width} there, as its first level")
    for name, usual in (("controlnet_conditioning_channel_order", "rgb"), ("global_pool_conditions", False)):
        if theirs.get(name, usual) != usual:
            raise InputError(f"{name} {theirs[name]!r}: a ControlNet for several kinds has {usual!r} there")
    return SDUnionControlNetConfig(
        trunk,
        tuple(theirs["conditioning_embedding_out_channels"]),
        kinds=theirs["num_control_type"],
        layers=theirs.get("num_trans_layer", 1),
        kind_dim=theirs["addition_time_embed_dim"],
    )


def _way_down(theirs: Mapping[str, Any]) -> SDUNetConfig:
    """The way down and the middle. One for small ControlNets may have no transformers, and need no words."""
    if theirs.get("conditioning_channels", 3) != 3:
        raise InputError(f"conditioning_channels {theirs['conditioning_channels']!r}: a ControlNet's pictures have 3 here")
    up = [kind.replace("Down", "Up") for kind in reversed(theirs["down_block_types"])]
    more = {
        "out_channels": theirs["in_channels"],
        "up_block_types": up,
        "attention_head_dim": theirs.get("num_attention_heads") or theirs["attention_head_dim"],
        "num_attention_heads": None,
        "cross_attention_dim": theirs.get("cross_attention_dim") or 0,
    }
    return unet_config({**theirs, **more})


def sd3_controlnet_config(theirs: Mapping[str, Any]) -> SD3ControlNetConfig | SD3PictureControlNetConfig:
    """From the config.json of an SD3ControlNetModel; without words (for Stable Diffusion 3.5 large) if it has no width for them.

    One that fills in (`holes`) is told no summary. InputError for one of no known kind.
    """
    holes = bool(theirs.get("holes"))
    summary = not holes and not theirs.get("force_zeros_for_pooled_projection", True)
    words, positions = theirs["joint_attention_dim"] is not None, theirs.get("use_pos_embed", True)
    if words != positions:
        raise InputError("a ControlNet with words and no positions, or with positions and no words, is of no known kind")
    if words:
        return SD3ControlNetConfig(sd3_config(theirs), summary, holes)
    if holes:
        raise InputError(f"a ControlNet without words {_FILLS}")
    heads = theirs["num_attention_heads"]
    width, vector_dim = heads * theirs["attention_head_dim"], theirs["pooled_projection_dim"]
    return SD3PictureControlNetConfig(
        theirs["in_channels"], theirs["patch_size"], width, theirs["num_layers"], heads, vector_dim, summary
    )


def flux_controlnet_config(theirs: Mapping[str, Any]) -> FluxControlNetConfig:
    """From the config.json of a FluxControlNetModel. InputError for one whose picture enters as pixels, but not as XLabs' do."""
    trunk, pixels = flux_config(theirs), theirs.get("conditioning_embedding_channels")
    if pixels and (pixels, theirs.get("patch_size")) != (trunk.channels, trunk.patch):
        raise InputError(f"conditioning_embedding_channels {pixels} in patches of {theirs.get('patch_size')}: none of XLabs' kind")
    return FluxControlNetConfig(trunk, theirs.get("num_mode") or 0, _XLABS_HINT if pixels else (), bool(theirs.get("holes")))


_XLABS_HINT = (16, 16, 16, 16)


_T2I: Mapping[str, type[T2IAdapterConfig]] = {"full_adapter": FullConfig, "full_adapter_xl": XLConfig, "light_adapter": LightConfig}


def t2i_adapter_config(theirs: Mapping[str, Any]) -> T2IAdapterConfig:
    """From the config.json of a T2IAdapter. InputError for a kind that is not known."""
    kind = _T2I.get(theirs["adapter_type"])
    if kind is None:
        raise InputError(f"adapter_type {theirs['adapter_type']!r} is none of {', '.join(_T2I)}")
    return kind(theirs["in_channels"], tuple(theirs["channels"]), theirs["num_res_blocks"], theirs["downscale_factor"])


STEERING: Mapping[str, tuple[Callable[[Mapping[str, Any]], SteeringConfig], Table]] = {
    "ControlNetModel": (controlnet_config, CONTROLNET_TABLE),
    "ControlNetUnionModel": (union_controlnet_config, UNION_CONTROLNET_TABLE),
    "SD3ControlNetModel": (sd3_controlnet_config, SD3_CONTROLNET_TABLE),
    "FluxControlNetModel": (flux_controlnet_config, FLUX_CONTROLNET_TABLE),
    "T2IAdapter": (t2i_adapter_config, T2I_ADAPTER_TABLE),
}
"""By diffusers' class: the configuration, and the table of names."""


_ENTRANCES: Mapping[str, tuple[str, int]] = {
    "SD3ControlNetModel": ("pos_embed_input.proj.weight", 1),
    "FluxControlNetModel": ("controlnet_x_embedder.weight", 4),
}
"""By class: the layer that the control picture enters by, and how many channels a mask beside it has there."""
_FILLS = "that is told which part is to be filled, which cannot be run; --fill does that, with a model for it"


def steering(kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Steering:
    """The network that a class of diffusers' with this configuration and these tensors is. InputError for another class.

    Those for several kinds of pictures are published as ControlNetModel too, and with a configuration for another number of kinds:
    they are known by their tensors. So are those for Stable Diffusion 3 and FLUX that fill in: not all configurations say it.
    """
    if kind in ("ControlNetModel", "ControlNetUnionModel") and "task_embedding" in tensors:
        kind, config = "ControlNetUnionModel", {**config, "num_control_type": len(tensors["task_embedding"])}
    if kind not in STEERING:
        raise InputError(f"a {kind}, which is not run here as an adapter; these are: {', '.join(STEERING)}")
    entrance, mask = _ENTRANCES.get(kind, ("", 0))
    more = tensors[entrance].shape[1] - config["in_channels"] if entrance in tensors else 0
    if more not in (0, mask) or (config.get("holes") and not more and kind != "ControlNetModel"):
        raise InputError(f"a {kind} {_FILLS}")
    config = {**config, "holes": bool(config.get("holes") or more)}
    read, table = STEERING[kind]
    with unfilled():
        network = read(config).build()
    network.load_state_dict(translate(AsType(tensors, torch.float32), table, network.state_dict()), assign=True)
    return network


def redux(tensors: Mapping[str, Tensor]) -> Redux:
    """FLUX.1 Redux, of whichever file. InputError if it is none."""
    wide = AsType(tensors, torch.float32)
    own = {f"{ours}.{leaf}": f"redux_{ours}.{leaf}" for ours in ("up", "down") for leaf in ("weight", "bias")}
    if missing := [theirs for theirs in own.values() if theirs not in wide]:
        raise InputError(f"not FLUX.1 Redux: it has no {missing[0]!r}")
    weights = {ours: wide[theirs] for ours, theirs in own.items()}
    hidden, seen = weights["up.weight"].shape
    with unfilled():
        made = ReduxConfig(seen, len(weights["down.weight"]), hidden).build()
    made.load_state_dict(weights, assign=True)
    return made


def timed_prompt(tensors: Mapping[str, Tensor]) -> TimedPrompt:
    """The IP-Adapter for Stable Diffusion 3.5 of a file. InputError if it is none."""
    wide = AsType(tensors, torch.float32)
    projection = {k.removeprefix("image_proj."): v for k, v in wide.items() if k.startswith("image_proj.")}
    resampler, _ = projection_config(projection)
    needed = "time_embedding.linear_1.weight", "ip_adapter.0.norm_q.weight"
    if not isinstance(resampler, ResamplerConfig) or needed[0] not in projection or needed[1] not in wide:
        raise InputError("not the IP-Adapter for Stable Diffusion 3.5 that is known, which is told the noise level")
    layers = sum(name.endswith(".norm_ip.linear.weight") for name in wide)
    config = TimedPromptConfig(resampler, layers, len(wide[needed[1]]), projection[needed[0]].shape[1])
    with unfilled():
        made = config.build()
    made.load_state_dict(translate(wide, TIMED_TABLE, made.state_dict()), assign=True)
    return made


def projection_config(theirs: Mapping[str, Tensor], added: bool = False) -> tuple[ProjectionConfig, Table]:
    """Of an IP-Adapter's `image_proj`, and the names that it has there. InputError for one that is not known.

    added: of FaceID plus, whether it is its second version, which no tensor says.
    """
    if "perceiver_resampler.proj_in.weight" in theirs:
        inner = {k.removeprefix("perceiver_resampler."): v for k, v in theirs.items() if k.startswith("perceiver_resampler.")}
        config = _resampler_config(inner, len(theirs["proj.2.weight"]) // len(theirs["norm.weight"]), len(theirs["norm.weight"]))
        middle, face = theirs["proj.0.weight"].shape
        if added and config.width != config.token_dim:
            raise InputError(f"FaceID plus, second version, of {config.width} and {config.token_dim} channels, which do not add up")
        return FaceConfig(**vars(config), face=face, middle=middle, added=added), FACE_TABLE
    if "proj.weight" in theirs:
        token_dim = len(theirs["norm.weight"])
        out, seen = theirs["proj.weight"].shape
        return SummaryConfig(seen, token_dim, out // token_dim), SUMMARY_TABLE
    if "proj.3.weight" in theirs:
        out, seen = theirs["proj.2.weight"].shape
        return EachConfig(seen, out), EACH_TABLE
    if "proj.2.weight" in theirs and "norm.weight" in theirs:
        token_dim, (hidden, seen) = len(theirs["norm.weight"]), theirs["proj.0.weight"].shape
        return SummaryConfig(seen, token_dim, len(theirs["proj.2.weight"]) // token_dim, hidden), TWO_LAYERS_TABLE
    if "latents" in theirs:
        _, tokens, width = theirs["latents"].shape
        return _resampler_config(theirs, tokens, width), RESAMPLER_TABLE
    raise InputError("not an IP-Adapter: it has no image_proj of a known kind")


def _resampler_config(theirs: Mapping[str, Tensor], tokens: int, width: int) -> ResamplerConfig:
    depth = 1 + max(int(name.split(".")[1]) for name in theirs if name.startswith("layers."))
    inner, hidden = len(theirs["layers.0.0.to_q.weight"]), len(theirs["layers.0.1.1.weight"])
    token_dim, seen = len(theirs["proj_out.weight"]), theirs["proj_in.weight"].shape[1]
    return ResamplerConfig(seen, token_dim, tokens, width, depth, inner // 64, 64, hidden)


def _plainly(name: str) -> str:
    """XLabs' names as diffusers calls them."""
    name = re.sub(r"^ip_adapter_proj_model\.", "image_proj.", name)
    return re.sub(r"^double_blocks\.(\d+)\.processor\.ip_adapter_double_stream_([kv])_proj\.", r"ip_adapter.\1.to_\2_ip.", name)


def image_prompt(tensors: Mapping[str, Tensor], added: bool = False) -> ImagePrompt:
    """The IP-Adapter of a file, without the LoRA that FaceID has beside it (`has_low_rank`). added: see `projection_config`.
    InputError if it is none."""
    parts, wide = ("image_proj.", "ip_adapter."), {_plainly(k): v for k, v in AsType(tensors, torch.float32).items()}
    projection, pairs = ({k.removeprefix(p): v for k, v in wide.items() if k.startswith(p)} for p in parts)
    config, table = projection_config(projection, added)
    weights: dict[str, Tensor] = {}
    layers, bias = sum(name.endswith(".to_k_ip.weight") for name in pairs), any(name.endswith(".to_k_ip.bias") for name in pairs)
    for k, ours, leaf in product(range(layers), ("keys", "values"), ("weight", "bias") if bias else ("weight",)):
        theirs = f"{k if bias else 2 * k + 1}.to_{ours[0]}_ip.{leaf}"
        if theirs not in pairs:
            raise InputError(f"the checkpoint lacks 'ip_adapter.{theirs}': it is incomplete")
        weights[f"{ours}.{k}.{leaf}"] = pairs[theirs]
    with unfilled():
        made = ImagePromptConfig(config, tuple(len(weights[f"keys.{k}.weight"]) for k in range(layers)), bias).build()
    own = translate(projection, table, made.projection.state_dict())
    made.load_state_dict({**{f"projection.{k}": v for k, v in own.items()}, **weights}, assign=True)
    return made

"""Autoencoders of the diffusers library as codecs of ours: configuration, names, and the scale and shift of their latents.

The states that their diffusion models were trained on are (z - shift) scale, or (z - mean) scale / std with a mean and std of every
channel; ours are (z - mean) / std (`latents`). Which of these settings a pipeline reads depends on the family (`building`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unnoise.checkpoints.diffusers_names import Table, translate
from unnoise.checkpoints.foreign.parts import Part
from unnoise.core.errors import InputError
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.networks.dc_autoencoder import DCAutoencoderConfig
from unnoise.networks.kl_autoencoder import KLAutoencoderConfig
from unnoise.networks.picture_autoencoder import PictureAutoencoderConfig
from unnoise.networks.tiny_autoencoder import TinyAutoencoderConfig
from unnoise.networks.unfilled import unfilled

TILE = 1536
"""Pixels a side up to which a picture is coded whole, as their library does: tiles would not be quite the same."""

_RESIDUAL = {
    "first_norm": "norm1",
    "first": "conv1",
    "second_norm": "norm2",
    "second": "conv2",
    "skip": "conv_shortcut",
}

KL_TABLE: Table = {
    **{
        f"{ours}.residuals.*.{a}": (f"{theirs}.resnets.*.{b}",)
        for ours, theirs in {
            "encoder.down.*": "encoder.down_blocks.*",
            "encoder.middle": "encoder.mid_block",
            "decoder.middle": "decoder.mid_block",
            "decoder.up.*": "decoder.up_blocks.*",
        }.items()
        for a, b in _RESIDUAL.items()
    },
    **{
        f"{half}.{ours}": theirs
        for half in ("encoder", "decoder")
        for ours, theirs in {
            "first": (f"{half}.conv_in",),
            "middle.attention.norm": (f"{half}.mid_block.attentions.0.group_norm",),
            "middle.attention.qkv": tuple(f"{half}.mid_block.attentions.0.to_{x}" for x in "qkv"),
            "middle.attention.out": (f"{half}.mid_block.attentions.0.to_out.0",),
            "norm": (f"{half}.conv_norm_out",),
            "last": (f"{half}.conv_out",),
        }.items()
    },
    "encoder.down.*.resample": ("encoder.down_blocks.*.downsamplers.0.conv",),
    "decoder.up.*.resample": ("decoder.up_blocks.*.upsamplers.0.conv",),
    "mix_moments": ("quant_conv",),
    "mix_codes": ("post_quant_conv",),
}

KL_FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Of the attention, in files from before 2023 (Stable Diffusion 1's among them)."""

TINY_TABLE: Table = {
    f"{half}.{ours}": (f"{half}.layers.{theirs}",)
    for half in ("encoder", "decoder")
    for ours, theirs in {
        "*": "*",
        "*.convolutions.0": "*.conv.0",
        "*.convolutions.1": "*.conv.2",
        "*.convolutions.2": "*.conv.4",
    }.items()
}

_DC_BLOCK = {
    "first": ("conv1",),
    "second": ("conv2",),
    "norm": ("norm",),
    "attention.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attention.scales.*.gather": ("attn.to_qkv_multiscale.*.proj_in",),
    "attention.scales.*.mix": ("attn.to_qkv_multiscale.*.proj_out",),
    "attention.out": ("attn.to_out",),
    "attention.norm": ("attn.norm_out",),
    "mlp.hidden": ("conv_out.conv_inverted",),
    "mlp.mix": ("conv_out.conv_depth",),
    "mlp.out": ("conv_out.conv_point",),
    "mlp_norm": ("conv_out.norm",),
    "convolution": ("conv",),
}

DC_TABLE: Table = {
    **{
        f"{half}.levels.*.*.{ours}": tuple(f"{half}.{place}.*.*.{one}" for one in theirs)
        for half, place in {"encoder": "down_blocks", "decoder": "up_blocks"}.items()
        for ours, theirs in _DC_BLOCK.items()
    },
    **{
        f"{half}.{ours}": (f"{half}.{theirs}",)
        for half in ("encoder", "decoder")
        for ours, theirs in {"first": "conv_in", "norm": "norm_out", "last": "conv_out"}.items()
    },
}


def kl_config(theirs: Mapping[str, Any]) -> KLAutoencoderConfig:
    """From the config.json of an AutoencoderKL. InputError for blocks that Stable Diffusion's have not."""
    widths = tuple(theirs["block_out_channels"])
    wanted = {
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "act_fn": "silu",
        "out_channels": theirs["in_channels"],
    }
    _refuse_others(theirs, wanted)
    return KLAutoencoderConfig(
        channels=theirs["in_channels"],
        latent_channels=theirs["latent_channels"],
        widths=widths,
        blocks=theirs["layers_per_block"],
        groups=theirs["norm_num_groups"],
        attention=theirs.get("mid_block_add_attention", True),
        mixed_moments=theirs.get("use_quant_conv", True),
        mixed_codes=theirs.get("use_post_quant_conv", True),
        force_upcast=bool(theirs.get("force_upcast", True)),
    )


def tiny_config(theirs: Mapping[str, Any]) -> TinyAutoencoderConfig:
    """From the config.json of an AutoencoderTiny. InputError for levels of several widths, which are none of TAESD's."""
    width = theirs["encoder_block_out_channels"][0]
    levels = len(theirs["num_encoder_blocks"])
    wanted = {
        "encoder_block_out_channels": [width] * levels,
        "decoder_block_out_channels": [width] * levels,
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
        "out_channels": theirs["in_channels"],
    }
    _refuse_others(theirs, wanted)
    return TinyAutoencoderConfig(
        channels=theirs["in_channels"],
        latent_channels=theirs["latent_channels"],
        width=width,
        encoder=tuple(theirs["num_encoder_blocks"]),
        decoder=tuple(theirs["num_decoder_blocks"]),
    )


def dc_config(theirs: Mapping[str, Any]) -> DCAutoencoderConfig:
    """From the config.json of an AutoencoderDC. InputError for one that is not built as Sana's."""
    widths, kinds = tuple(theirs["encoder_block_out_channels"]), list(theirs["encoder_block_types"])
    residual, levels = kinds.count("ResBlock"), len(widths)
    sides = [tuple(side) for side in theirs["encoder_qkv_multiscales"]]
    scales = sides[-1] if residual < levels else ()
    halving = theirs["downsample_block_type"]
    wanted = {
        "encoder_block_types": ["ResBlock"] * residual + ["EfficientViTBlock"] * (levels - residual),
        "decoder_block_types": kinds,
        "decoder_block_out_channels": list(widths),
        "encoder_qkv_multiscales": [[]] * residual + [list(scales)] * (levels - residual),
        "decoder_qkv_multiscales": [list(each) for each in sides],
        "downsample_block_type": "conv" if halving == "pixel_unshuffle" else halving,  # "Conv" in Sana's: all but one name mean it
        "upsample_block_type": "interpolate",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "decoder_conv_act_fn": "relu",
        "encoder_out_shortcut": True,
        "decoder_in_shortcut": True,
    }
    _refuse_others(theirs, wanted)
    return DCAutoencoderConfig(
        channels=theirs["in_channels"],
        latent_channels=theirs["latent_channels"],
        widths=widths,
        encoder=tuple(theirs["encoder_layers_per_block"]),
        decoder=tuple(theirs["decoder_layers_per_block"]),
        residual=residual,
        scales=scales,
        head_dim=theirs["attention_head_dim"],
    )


@dataclass(frozen=True)
class Kind:
    """A class of theirs. config: from its config.json; scale: of its latents where that says none, as in files before 2023."""

    config: Callable[[Mapping[str, Any]], PictureAutoencoderConfig]
    table: Table
    scale: float


KINDS: Mapping[str, Kind] = {
    "AutoencoderKL": Kind(kl_config, KL_TABLE, 0.18215),
    "AutoencoderTiny": Kind(tiny_config, TINY_TABLE, 1.0),
    "AutoencoderDC": Kind(dc_config, DC_TABLE, 1.0),
}


def read_autoencoder(part: Part, height: int, width: int) -> tuple[LatentsConfig, dict[str, Tensor]]:
    """The codec for pictures of height x width pixels, and its state dict: weights as they lie in the file, mean and std float32.

    Raises InputError for a kind of autoencoder that is not known here, and for weights that do not fit the configuration.
    """
    if part.kind not in KINDS:
        raise InputError(f"{part.where}: autoencoders of class {part.kind} are not known here; {', '.join(KINDS)} are")
    kind = KINDS[part.kind]
    try:
        network = kind.config(part.config)
        with unfilled():
            ours = network.build().state_dict()
        weights = translate({_present_name(name): part.tensors[name] for name in part.tensors}, kind.table, ours)
        mean, std = latents_statistics(part.config, network.latent_channels, kind.scale)
    except KeyError as e:
        raise InputError(f"{part.where}: the configuration of the autoencoder lacks {e}") from None
    except (TypeError, IndexError) as e:  # null, a number or an empty list where a list is meant
        raise InputError(f"{part.where}: the configuration of the autoencoder cannot be understood: {e}") from None
    except (InputError, ValueError) as e:
        raise InputError(f"{part.where}: {e}") from None
    config = LatentsConfig(height, width, network.channels, network, TILE)
    return config, {"mean": mean, "std": std, **{f"autoencoder.{name}": w for name, w in weights.items()}}


def latents_statistics(theirs: Mapping[str, Any], channels: int, scale: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the codes, (channels,) each. Without both of every channel, the shift is that of all.

    scale: where the configuration says none.
    """
    scales = _per_channel(theirs.get("scaling_factor"), scale, channels)
    mean, std = (theirs.get(name) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        mean = std = None
    return _per_channel(mean, theirs.get("shift_factor") or 0.0, channels), _per_channel(std, 1.0, channels) / scales


def _per_channel(value: float | list[float] | None, default: float, channels: int) -> Tensor:
    """(channels,) float32."""
    values = torch.tensor(default if value is None else value, dtype=torch.float32)
    if values.numel() not in (1, channels):
        raise InputError(f"{values.numel()} numbers for an autoencoder's latents of {channels} channels: one each is meant")
    return values.flatten().expand(channels).clone()


def _present_name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    place, _, last = module.rpartition(".")
    return f"{place}.{KL_FORMER_NAMES[last]}.{leaf}" if last in KL_FORMER_NAMES and ".attentions." in module else name


def _refuse_others(theirs: Mapping[str, Any], wanted: Mapping[str, object]) -> None:
    """InputError for the first setting that is there and is another one."""
    for name, value in wanted.items():
        found = _as_lists(theirs.get(name, value))
        if found != value:
            raise InputError(f"{name} {found!r} in the autoencoder's configuration: {value!r} is what can be built here")


def _as_lists(value: object) -> object:
    return [_as_lists(each) for each in value] if isinstance(value, tuple | list) else value

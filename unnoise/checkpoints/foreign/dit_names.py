"""PixArt's and Sana's transformers: diffusers' configuration as ours, and which of their tensors makes up each of ours.

Tables as in `diffusers_names`.
"""

from collections.abc import Mapping
from typing import Any

from unnoise.checkpoints.diffusers_names import Table
from unnoise.core.errors import InputError
from unnoise.networks.embedding import Timesteps
from unnoise.networks.pixart import PixArtConfig
from unnoise.networks.sana import SanaConfig

_COMMON = {
    "tokens.0": ("caption_projection.linear_1",),
    "tokens.2": ("caption_projection.linear_2",),
    "table": ("scale_shift_table",),  # a tensor, not a module
    "out": ("proj_out",),
    "blocks.*.table": ("transformer_blocks.*.scale_shift_table",),
    "blocks.*.attention.out": ("transformer_blocks.*.attn1.to_out.0",),
    "blocks.*.words.q": ("transformer_blocks.*.attn2.to_q",),
    "blocks.*.words.kv": ("transformer_blocks.*.attn2.to_k", "transformer_blocks.*.attn2.to_v"),
    "blocks.*.words.out": ("transformer_blocks.*.attn2.to_out.0",),
}

PIXART_TABLE: Table = {
    **_COMMON,
    "patches": ("pos_embed.proj",),
    "embedding.noise.hidden": ("adaln_single.emb.timestep_embedder.linear_1",),
    "embedding.noise.out": ("adaln_single.emb.timestep_embedder.linear_2",),
    "sizes.sides.hidden": ("adaln_single.emb.resolution_embedder.linear_1",),
    "sizes.sides.out": ("adaln_single.emb.resolution_embedder.linear_2",),
    "sizes.ratio.hidden": ("adaln_single.emb.aspect_ratio_embedder.linear_1",),
    "sizes.ratio.out": ("adaln_single.emb.aspect_ratio_embedder.linear_2",),
    "modulation": ("adaln_single.linear",),
    "blocks.*.attention.project.qkv": tuple(f"transformer_blocks.*.attn1.to_{x}" for x in "qkv"),
    "blocks.*.mlp.0": ("transformer_blocks.*.ff.net.0.proj",),
    "blocks.*.mlp.2": ("transformer_blocks.*.ff.net.2",),
}

SANA_TABLE: Table = {
    **_COMMON,
    "patches": ("patch_embed.proj",),
    "embedding.noise.hidden": ("time_embed.emb.timestep_embedder.linear_1",),
    "embedding.noise.out": ("time_embed.emb.timestep_embedder.linear_2",),
    "modulation": ("time_embed.linear",),
    "tokens.3": ("caption_norm",),
    "blocks.*.attention.qkv": tuple(f"transformer_blocks.*.attn1.to_{x}" for x in "qkv"),
    "blocks.*.attention.q_norm": ("transformer_blocks.*.attn1.norm_q",),
    "blocks.*.attention.k_norm": ("transformer_blocks.*.attn1.norm_k",),
    "blocks.*.words.q_norm": ("transformer_blocks.*.attn2.norm_q",),
    "blocks.*.words.k_norm": ("transformer_blocks.*.attn2.norm_k",),
    "blocks.*.mlp.hidden": ("transformer_blocks.*.ff.conv_inverted",),
    "blocks.*.mlp.mix": ("transformer_blocks.*.ff.conv_depth",),
    "blocks.*.mlp.out": ("transformer_blocks.*.ff.conv_point",),
}

SANA_SPRINT_TABLE: Table = {
    **SANA_TABLE,
    "embedding.noise.hidden": ("time_embed.timestep_embedder.linear_1",),
    "embedding.noise.out": ("time_embed.timestep_embedder.linear_2",),
    "embedding.guidance.hidden": ("time_embed.guidance_embedder.linear_1",),
    "embedding.guidance.out": ("time_embed.guidance_embedder.linear_2",),
}
"""Where the guidance scale is told, their module of the noise level lies elsewhere."""


def sana_table(config: SanaConfig) -> Table:
    return SANA_TABLE if config.guidance is None else SANA_SPRINT_TABLE


_PIXART_FIXED: Mapping[str, Any] = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_type": "default",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "norm_type": "ada_norm_single",
}

_SANA_FIXED: Mapping[str, Any] = {"attention_bias": False, "norm_elementwise_affine": False, "norm_eps": 1e-6}


def pixart_config(theirs: Mapping[str, Any]) -> PixArtConfig:
    """From the config.json of a PixArtTransformer2DModel. InputError for one that is not PixArt's."""
    _check(theirs, _PIXART_FIXED, "PixArt")
    channels, side = theirs["in_channels"], theirs["sample_size"]
    out, width = theirs.get("out_channels") or channels, theirs["num_attention_heads"] * theirs["attention_head_dim"]
    _same("cross_attention_dim", theirs.get("cross_attention_dim"), width, "PixArt")
    if theirs.get("caption_channels") is None:
        raise InputError("caption_channels is missing: PixArt reads the tokens of a text encoder through a projection")
    if out not in (channels, 2 * channels):
        raise InputError(f"out_channels {out}: PixArt has {channels}, or {2 * channels} with a variance")
    sizes = theirs.get("use_additional_conditions")
    return PixArtConfig(
        channels=channels,
        patch=theirs["patch_size"],
        width=width,
        depth=theirs["num_layers"],
        heads=theirs["num_attention_heads"],
        token_dim=theirs["caption_channels"],
        unit=side // theirs["patch_size"] / (theirs.get("interpolation_scale") or max(side // 64, 1)),
        sizes=side == 128 if sizes is None else sizes,
        variance=out != channels,
    )


def pixart_theirs(ours: PixArtConfig, side: int) -> dict[str, Any]:
    """The way back: config.json of a PixArtTransformer2DModel. side: of the states that it is for."""
    return {
        "_class_name": "PixArtTransformer2DModel",
        "sample_size": side,
        "patch_size": ours.patch,
        "interpolation_scale": side // ours.patch / ours.unit,
        "in_channels": ours.channels,
        "out_channels": ours.channels * (2 if ours.variance else 1),
        "num_layers": ours.depth,
        "num_attention_heads": ours.heads,
        "attention_head_dim": ours.width // ours.heads,
        "cross_attention_dim": ours.width,
        "caption_channels": ours.token_dim,
        "use_additional_conditions": ours.sizes,
        **_PIXART_FIXED,
    }


def sana_config(theirs: Mapping[str, Any]) -> SanaConfig:
    """From the config.json of a SanaTransformer2DModel. InputError for one that is not Sana's."""
    _check(theirs, _SANA_FIXED, "Sana")
    channels, heads, patch = theirs["in_channels"], theirs["num_attention_heads"], theirs["patch_size"]
    width, word_heads = heads * theirs["attention_head_dim"], theirs["num_cross_attention_heads"]
    _same("out_channels", theirs.get("out_channels") or channels, channels, "Sana")
    _same("cross_attention_dim", theirs["cross_attention_dim"], width, "Sana")
    _same("num_cross_attention_heads * cross_attention_head_dim", word_heads * theirs["cross_attention_head_dim"], width, "Sana")
    if theirs.get("qk_norm") not in (None, "rms_norm_across_heads"):
        raise InputError(
            f"qk_norm {theirs['qk_norm']!r}: Sana's queries and keys are normalised by 'rms_norm_across_heads', or not"
        )
    stretch, told = theirs.get("interpolation_scale"), theirs.get("guidance_embeds", False)
    return SanaConfig(
        channels=channels,
        patch=patch,
        width=width,
        depth=theirs["num_layers"],
        heads=heads,
        word_heads=word_heads,
        hidden=int(theirs["mlp_ratio"] * width),
        token_dim=theirs["caption_channels"],
        norm_qk=theirs.get("qk_norm") is not None,
        unit=None if stretch is None else theirs["sample_size"] // patch / stretch,
        guidance=theirs.get("guidance_embeds_scale", 0.1) if told else None,
        features=Timesteps(1.0 if told else 1000 * theirs.get("timestep_scale", 1.0)),  # Sprint's pipeline does not scale the time
    )


def sana_theirs(ours: SanaConfig, side: int) -> dict[str, Any]:
    """The way back: config.json of a SanaTransformer2DModel. side: of the states that it is for.

    InputError for a noise level that it is told otherwise.
    """
    if not isinstance(ours.features, Timesteps):
        raise InputError(f"a Sana that is told noise levels by {type(ours.features).__name__}: diffusers' by Timesteps")
    told = ours.guidance is not None
    return {
        "_class_name": "SanaTransformer2DModel",
        "sample_size": side,
        "patch_size": ours.patch,
        "interpolation_scale": None if ours.unit is None else side // ours.patch / ours.unit,
        "in_channels": ours.channels,
        "out_channels": ours.channels,
        "num_layers": ours.depth,
        "num_attention_heads": ours.heads,
        "attention_head_dim": ours.width // ours.heads,
        "num_cross_attention_heads": ours.word_heads,
        "cross_attention_head_dim": ours.width // ours.word_heads,
        "cross_attention_dim": ours.width,
        "caption_channels": ours.token_dim,
        "mlp_ratio": ours.hidden / ours.width,
        "qk_norm": "rms_norm_across_heads" if ours.norm_qk else None,
        "timestep_scale": ours.features.scale / 1000,
        "guidance_embeds": told,
        **({"guidance_embeds_scale": ours.guidance} if told else {}),
        **_SANA_FIXED,
    }


def _check(theirs: Mapping[str, Any], fixed: Mapping[str, Any], family: str) -> None:
    for name, wanted in fixed.items():
        _same(name, theirs.get(name, wanted), wanted, family)


def _same(name: str, value: object, wanted: object, family: str) -> None:
    if value != wanted:
        raise InputError(f"{name} {value!r}: {family} has {wanted!r} there")

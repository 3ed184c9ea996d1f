"""Networks of the diffusers library in our terms: their configuration as ours, and which of their tensors makes up each of ours.

A table maps each module of our network to the modules of theirs that make it up, "*" standing for any number, in order. Weights of
several are laid one under another (queries, keys and values are one layer here), and take our shape (1 x 1 convolutions of theirs
are linear layers here).
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from torch import Tensor

from unnoise.checkpoints.foreign.mapped import joined
from unnoise.core.errors import InputError
from unnoise.networks.flux import FluxConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig

Table = Mapping[str, tuple[str, ...]]

EMBEDDING = {
    "embedding.noise.hidden": ("time_text_embed.timestep_embedder.linear_1",),
    "embedding.noise.out": ("time_text_embed.timestep_embedder.linear_2",),
    "embedding.guidance.hidden": ("time_text_embed.guidance_embedder.linear_1",),
    "embedding.guidance.out": ("time_text_embed.guidance_embedder.linear_2",),
    "embedding.vector.hidden": ("time_text_embed.text_embedder.linear_1",),
    "embedding.vector.out": ("time_text_embed.text_embedder.linear_2",),
    "tokens": ("context_embedder",),
    "modulation": ("norm_out.linear",),
    "out": ("proj_out",),
}

JOINT_BLOCKS = {
    "blocks.*.picture.modulation": ("transformer_blocks.*.norm1.linear",),
    "blocks.*.picture.project.qkv": tuple(f"transformer_blocks.*.attn.to_{x}" for x in "qkv"),
    "blocks.*.picture.project.q_norm": ("transformer_blocks.*.attn.norm_q",),
    "blocks.*.picture.project.k_norm": ("transformer_blocks.*.attn.norm_k",),
    "blocks.*.picture.out": ("transformer_blocks.*.attn.to_out.0",),
    "blocks.*.picture.mlp.0": ("transformer_blocks.*.ff.net.0.proj",),
    "blocks.*.picture.mlp.2": ("transformer_blocks.*.ff.net.2",),
    "blocks.*.words.modulation": ("transformer_blocks.*.norm1_context.linear",),
    "blocks.*.words.project.qkv": tuple(f"transformer_blocks.*.attn.add_{x}_proj" for x in "qkv"),
    "blocks.*.words.project.q_norm": ("transformer_blocks.*.attn.norm_added_q",),
    "blocks.*.words.project.k_norm": ("transformer_blocks.*.attn.norm_added_k",),
    "blocks.*.words.out": ("transformer_blocks.*.attn.to_add_out",),
    "blocks.*.words.mlp.0": ("transformer_blocks.*.ff_context.net.0.proj",),
    "blocks.*.words.mlp.2": ("transformer_blocks.*.ff_context.net.2",),
}

SD3_TABLE: Table = {
    **EMBEDDING,
    **JOINT_BLOCKS,
    "patches": ("pos_embed.proj",),
    "positions": ("pos_embed.pos_embed",),  # a tensor, not a module
    "blocks.*.picture.alone.project.qkv": tuple(f"transformer_blocks.*.attn2.to_{x}" for x in "qkv"),
    "blocks.*.picture.alone.project.q_norm": ("transformer_blocks.*.attn2.norm_q",),
    "blocks.*.picture.alone.project.k_norm": ("transformer_blocks.*.attn2.norm_k",),
    "blocks.*.picture.alone.out": ("transformer_blocks.*.attn2.to_out.0",),
    "blocks.*.modulation": ("transformer_blocks.*.norm1_context.linear",),
    "blocks.*.kv": ("transformer_blocks.*.attn.add_k_proj", "transformer_blocks.*.attn.add_v_proj"),
    "blocks.*.k_norm": ("transformer_blocks.*.attn.norm_added_k",),
}

SD3_UNUSED = ("transformer_blocks.*.attn.add_q_proj", "transformer_blocks.*.attn.norm_added_q")
"""Of the last block: the words' queries, whose answers nothing reads."""

FLUX_TABLE: Table = {
    **EMBEDDING,
    **JOINT_BLOCKS,
    "patches": ("x_embedder",),
    "singles.*.modulation": ("single_transformer_blocks.*.norm.linear",),
    "singles.*.inner": (
        *(f"single_transformer_blocks.*.attn.to_{x}" for x in "qkv"),
        "single_transformer_blocks.*.proj_mlp",
    ),
    "singles.*.q_norm": ("single_transformer_blocks.*.attn.norm_q",),
    "singles.*.k_norm": ("single_transformer_blocks.*.attn.norm_k",),
    "singles.*.out": ("single_transformer_blocks.*.proj_out",),
}

_UNET_RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "modulation": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}

_UNET_TRANSFORMER = {
    "norm": ("norm",),
    "enter": ("proj_in",),
    "leave": ("proj_out",),
    "blocks.*.norm1": ("transformer_blocks.*.norm1",),
    "blocks.*.attention.q": ("transformer_blocks.*.attn1.to_q",),
    "blocks.*.attention.kv": ("transformer_blocks.*.attn1.to_k", "transformer_blocks.*.attn1.to_v"),
    "blocks.*.attention.out": ("transformer_blocks.*.attn1.to_out.0",),
    "blocks.*.norm2": ("transformer_blocks.*.norm2",),
    "blocks.*.words.q": ("transformer_blocks.*.attn2.to_q",),
    "blocks.*.words.kv": ("transformer_blocks.*.attn2.to_k", "transformer_blocks.*.attn2.to_v"),
    "blocks.*.words.out": ("transformer_blocks.*.attn2.to_out.0",),
    "blocks.*.norm3": ("transformer_blocks.*.norm3",),
    "blocks.*.hidden": ("transformer_blocks.*.ff.net.0.proj",),
    "blocks.*.out": ("transformer_blocks.*.ff.net.2",),
}

_UNET_PLACES = {"down.*": "down_blocks.*", "middle": "mid_block", "up.*": "up_blocks.*"}

UNET_TABLE: Table = {
    "embedding.noise.hidden": ("time_embedding.linear_1",),
    "embedding.noise.out": ("time_embedding.linear_2",),
    "guidance": ("time_embedding.cond_proj",),
    "embedding.vector.hidden": ("add_embedding.linear_1",),
    "embedding.vector.out": ("add_embedding.linear_2",),
    "first": ("conv_in",),
    "norm": ("conv_norm_out",),
    "last": ("conv_out",),
    "down.*.resample": ("down_blocks.*.downsamplers.0.conv",),
    "up.*.resample.conv": ("up_blocks.*.upsamplers.0.conv",),
    **{
        f"{ours}.residuals.*.{a}": (f"{theirs}.resnets.*.{b}",)
        for ours, theirs in _UNET_PLACES.items()
        for a, b in _UNET_RESIDUAL.items()
    },
    **{
        f"{ours}.transformers.*.{a}": tuple(f"{theirs}.attentions.*.{b}" for b in several)
        for ours, theirs in _UNET_PLACES.items()
        for a, several in _UNET_TRANSFORMER.items()
    },
}


def translate(
    theirs: Mapping[str, Tensor], table: Table, ours: Mapping[str, Tensor], unused: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The state dict of our network, with the names and shapes of `ours` (which may lie on the meta device).

    `unused`: modules of theirs that compute nothing. Raises InputError for a tensor that is missing, left over or of another size.
    """
    out: dict[str, Tensor] = {}
    left = set(theirs)
    for name, like in ours.items():
        sources = sources_of(name, table)
        if missing := [s for s in sources if s not in theirs]:
            raise InputError(f"the checkpoint lacks {missing[0]!r}; its configuration is that of another network")
        parts = [theirs[s] for s in sources]
        if sum(p.numel() for p in parts) != like.numel() or sum(len(p) for p in parts) != len(like):
            raise InputError(
                f"the checkpoint's {sources[0]!r} is {tuple(parts[0].shape)}, where {tuple(like.shape)} is to be filled"
            )
        out[name] = (parts[0] if len(parts) == 1 else joined(parts)).reshape(like.shape)
        left.difference_update(sources)
    nothing: Table = dict.fromkeys(unused, ())
    left = {name for name in left if lookup(name.rpartition(".")[0], nothing) is None}
    if left:
        raise InputError(f"the checkpoint has {min(left)!r}, which has no place in this network")
    return out


def sources_of(name: str, table: Table) -> list[str]:
    """The tensors of theirs that make up our tensor `name`, in order. InputError for one that the table does not know."""
    module, _, leaf = name.rpartition(".")
    if (found := lookup(name, table)) is not None:  # a tensor, not a module
        return found[1]
    if (found := lookup(module, table)) is not None:
        return [f"{source}.{leaf}" for source in found[1]]
    raise InputError(f"no tensor of theirs is known for {name!r}")


def lookup(name: str, table: Table) -> tuple[str, list[str]] | None:
    """The key that fits a name, the most particular one first, and its sources with their stars filled in."""
    parts = name.split(".")
    places = [i for i, part in enumerate(parts) if part.isdigit()]
    for starred in product((False, True), repeat=len(places)):
        starry, numbers = list(parts), []
        for place, star in zip(places, starred):
            if star:
                numbers.append(parts[place])
                starry[place] = "*"
        if (key := ".".join(starry)) in table:
            return key, [filled(source, numbers) for source in table[key]]
    return None


def filled(pattern: str, numbers: Sequence[str]) -> str:
    """The pattern with its stars replaced, one after another."""
    for n in numbers:
        pattern = pattern.replace("*", n, 1)
    return pattern


def sd3_config(theirs: Mapping[str, Any]) -> SD3Config:
    """From the config.json of an SD3Transformer2DModel. InputError for queries and keys normalised otherwise."""
    if theirs.get("qk_norm") not in (None, "rms_norm"):
        raise InputError(f"qk_norm {theirs['qk_norm']!r}: queries and keys are normalised by 'rms_norm' here, or not at all")
    return SD3Config(
        channels=theirs["out_channels"],
        patch=theirs["patch_size"],
        width=theirs["num_attention_heads"] * theirs["attention_head_dim"],
        depth=theirs["num_layers"],
        heads=theirs["num_attention_heads"],
        vector_dim=theirs["pooled_projection_dim"],
        token_dim=theirs["joint_attention_dim"],
        norm_qk=theirs.get("qk_norm") is not None,
        dual=tuple(theirs.get("dual_attention_layers", ())),
        positions=theirs["pos_embed_max_size"],
        unit=theirs["sample_size"] // theirs["patch_size"],
        picture_channels=theirs["in_channels"] - theirs["out_channels"],
    )


def flux_config(theirs: Mapping[str, Any]) -> FluxConfig:
    """From the config.json of a FluxTransformer2DModel, whose pictures have been cut into patches of 2 x 2 already."""
    out = theirs.get("out_channels") or theirs["in_channels"]
    return FluxConfig(
        channels=out // 4,
        patch=2,
        width=theirs["num_attention_heads"] * theirs["attention_head_dim"],
        joint=theirs["num_layers"],
        single=theirs["num_single_layers"],
        heads=theirs["num_attention_heads"],
        axes=tuple(theirs["axes_dims_rope"]),
        vector_dim=theirs["pooled_projection_dim"],
        token_dim=theirs["joint_attention_dim"],
        guidance=theirs.get("guidance_embeds", False),
        picture_channels=(theirs["in_channels"] - out) // 4,
    )


_UNET_FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "attention_type": "default",
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-5,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
"""What a UNet2DConditionModel must have to be one of Stable Diffusion's."""
_MIDDLES = ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D")
"""With a transformer, and without."""


def unet_config(theirs: Mapping[str, Any]) -> SDUNetConfig:
    """From the config.json of a UNet2DConditionModel of the Stable Diffusion family. InputError for one of another."""
    for name, wanted in _UNET_FIXED.items():
        if theirs.get(name, wanted) != wanted:
            raise InputError(f"{name} {theirs[name]!r}: a U-Net of Stable Diffusion has {wanted!r} there")
    if theirs.get("addition_embed_type") not in (None, "text_time"):
        raise InputError(f"addition_embed_type {theirs['addition_embed_type']!r}: Stable Diffusion has 'text_time' or none")
    widths, kinds = tuple(theirs["block_out_channels"]), tuple(theirs["down_block_types"])
    mirrored = tuple(kind.replace("Up", "Down") for kind in reversed(theirs["up_block_types"]))
    if mirrored != kinds or not set(kinds) <= {"CrossAttnDownBlock2D", "DownBlock2D"}:
        raise InputError(f"blocks {kinds} down and {tuple(theirs['up_block_types'])} up are not those of Stable Diffusion")
    if (middle := theirs.get("mid_block_type", _MIDDLES[0])) not in (*_MIDDLES, None):
        raise InputError(f"mid_block_type {middle!r}: a U-Net of Stable Diffusion has one of {', '.join(_MIDDLES)} there, or none")
    blocks = _the_one("layers_per_block", theirs["layers_per_block"])
    told, upwards = theirs.get("transformer_layers_per_block", 1), theirs.get("reverse_transformer_layers_per_block")
    if upwards is None and not isinstance(told, int) and any(not isinstance(depth, int) for depth in told):
        raise InputError(f"transformer_layers_per_block {told!r}: those on the way up (reverse_ ...) are to be said beside several")
    down = _depths(told, len(widths), blocks)
    depths = tuple(d if kind == "CrossAttnDownBlock2D" else 0 for d, kind in zip(down, kinds))
    up_depths = None
    if upwards is not None:
        up = reversed(_depths(upwards, len(widths), blocks + 1))
        up_depths = tuple(d if kind == "CrossAttnDownBlock2D" else 0 for d, kind in zip(up, kinds))
    in_middle = down[-1] if isinstance(down[-1], int) else down[-1][0]
    return SDUNetConfig(
        channels=theirs["out_channels"],
        widths=widths,
        blocks=blocks,
        depths=depths,
        middle=None if middle is None else in_middle if middle == _MIDDLES[0] else 0,
        heads=_per_level(theirs["attention_head_dim"], len(widths)),  # named wrongly there: it is the number of heads
        vector_dim=theirs["projection_class_embeddings_input_dim"] if theirs.get("addition_embed_type") else 0,
        token_dim=_the_one("cross_attention_dim", theirs["cross_attention_dim"]),
        groups=theirs["norm_num_groups"],
        picture_channels=theirs["in_channels"] - theirs["out_channels"],
        guidance_dim=theirs.get("time_cond_proj_dim") or 0,
        up_depths=None if up_depths == depths else up_depths,
        upcast_attention=bool(theirs.get("upcast_attention")),
    )


def _depths(value: Any, levels: int, blocks: int) -> tuple[int | tuple[int, ...], ...]:
    """Of every level: one number, or one for each of its transformers, which are one where they are the same."""
    each = [value] * levels if isinstance(value, int) else list(value)
    if len(each) != levels or not all(isinstance(d, int) or (isinstance(d, list | tuple) and len(d) == blocks) for d in each):
        raise InputError(f"transformers of depths {value!r}: one number for each of {levels} levels, or {blocks}, are meant")
    return tuple(d if isinstance(d, int) else d[0] if len({*d}) == 1 else tuple(d) for d in each)


def _the_one(name: str, value: Any) -> Any:
    """What every level has, where it is said of each. InputError for another at one of them."""
    if not isinstance(value, list | tuple):
        return value
    if not value or any(v != value[0] for v in value):
        raise InputError(f"{name} {value!r}: a U-Net of Stable Diffusion has the same on all levels")
    return value[0]


def _per_level(value: int | list[int] | tuple[int, ...], levels: int) -> tuple[int, ...]:
    return (value,) * levels if isinstance(value, int) else tuple(value)

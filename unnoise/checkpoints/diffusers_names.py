"""Networks of the diffusers library in our terms: their configuration as ours, and which of their tensors makes up each of ours.

A table maps each module of our network to the modules of theirs that make it up, "*" standing for any number, in order. Weights of
several are laid one under another (queries, keys and values are one layer here), and take our shape (1 x 1 convolutions of theirs
are linear layers here).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.networks.flux import FluxConfig
from unnoise.networks.sd3 import SD3Config

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
        out[name] = (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(like.shape)
        left.difference_update(sources)
    left = {name for name in left if not any(_match(u, name.rpartition(".")[0]) for u in unused)}
    if left:
        raise InputError(f"the checkpoint has {min(left)!r}, which has no place in this network")
    return out


def sources_of(name: str, table: Table) -> list[str]:
    """The tensors of theirs that make up our tensor `name`, in order."""
    module, _, leaf = name.rpartition(".")
    for pattern, sources in table.items():
        if pattern == name:
            return list(sources)
        if (numbers := _match(pattern, module)) is not None:
            return [f"{_filled(s, numbers)}.{leaf}" for s in sources]
    raise InputError(f"no tensor of theirs is known for {name!r}")


def _match(pattern: str, module: str) -> tuple[str, ...] | None:
    """What the pattern's stars stand for in a module's name, if it fits."""
    found = re.fullmatch(re.escape(pattern).replace(r"\*", r"(\d+)"), module)
    return None if found is None else found.groups()


def _filled(source: str, numbers: tuple[str, ...]) -> str:
    for n in numbers:
        source = source.replace("*", n, 1)
    return source


def sd3_config(theirs: Mapping[str, Any]) -> SD3Config:
    """From the config.json of an SD3Transformer2DModel."""
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

"""Names of the original files - CompVis, Stability, Black Forest Labs, OpenCLIP - in those of diffusers and transformers.

A table says which modules of diffusers' the rows of each original module (or tensor) make up, in order; "*" stands for any number.
Where there are several, each takes as many rows as the network is wide, and the last what is left.

    U-Net        input_blocks, middle_block, output_blocks are counted in one row, where diffusers counts (level, block)
    SD3          joint_blocks (x_block: the picture's, context_block: the words'); queries, keys and values in one
    FLUX         double_blocks, single_blocks; linear1 is queries, keys, values and the first layer of the MLP in one
    both         the last adaptive layers give (shift, scale) there, (scale, shift) in diffusers
    autoencoder  decoder levels are counted from the finest, in diffusers from the coarsest; attention is 1 x 1 convolutions
    OpenCLIP     the projection of the text is transposed
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

from unnoise.checkpoints.diffusers_names import Table, lookup
from unnoise.checkpoints.foreign.pieces import Piece, Shapes
from unnoise.core.errors import InputError


@dataclass(frozen=True)
class Layout:
    """table: see above. width: rows of every part but the last.

    swapped: modules whose halves change places; turned: tensors that are transposed; flat: modules whose 1 x 1 kernels are dropped;
    kernels: those whose matrices are 1 x 1 kernels, whose sizes of 1 some tools drop. All of them keys of the table. dropped:
    beginnings of names for which there is no place, and no need.
    """

    table: Table
    width: int = 0
    swapped: Collection[str] = ()
    turned: Collection[str] = ()
    flat: Collection[str] = ()
    kernels: Collection[str] = ()
    dropped: tuple[str, ...] = ()


def pieces(shapes: Shapes, layout: Layout, prefix: str) -> dict[str, Piece]:
    """diffusers' names -> what is to be cut out of the tensors called `prefix` + name, for the names of `shapes`.

    InputError for names that the layout has not, the first few of them told.
    """
    out: dict[str, Piece] = {}
    strange = []
    for name, shape in shapes.items():
        if any(name.startswith(d) for d in layout.dropped):
            continue
        if (found := _targets(name, layout.table)) is None:
            strange.append(name)
            continue
        key, targets = found
        for target, (start, stop) in zip(targets, _bounds(prefix + name, shape, len(targets), layout.width)):
            size = (stop - start, *shape[1:])[: len(shape)]
            middle = (start + stop) // 2
            rows = ((middle, stop), (start, middle)) if key in layout.swapped else ((start, stop),)
            if key in layout.flat:
                size = size[:2]
            if key in layout.kernels and len(size) == 2:
                size = (*size, 1, 1)
            out[target] = Piece(prefix + name, rows, size[::-1] if key in layout.turned else size, key in layout.turned)
    if strange:
        told = ", ".join(repr(prefix + n) for n in sorted(strange)[:3])
        raise InputError(f"{len(strange)} of {len(shapes)} tensors have no place in such a network: {told}")
    return out


def _targets(name: str, table: Table) -> tuple[str, list[str]] | None:
    """The key of the table that fits a tensor, and the tensors of diffusers' that it stands for."""
    if (found := lookup(name, table)) is not None:
        return found
    module, _, leaf = name.rpartition(".")
    if (found := lookup(module, table)) is not None:
        return found[0], [f"{target}.{leaf}" for target in found[1]]
    return None


def _bounds(name: str, shape: tuple[int, ...], parts: int, width: int) -> list[tuple[int, int]]:
    """Where the rows of every part begin and end."""
    rows = shape[0] if shape else 1
    cuts = [width * i for i in range(parts)] + [rows]
    if parts > 1 and cuts[-2] >= rows:
        raise InputError(f"{name!r} has {rows} rows, too few for {parts} parts of {width}: parts of two models mixed up")
    return list(pairwise(cuts))


_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = (
    *("norm", "proj_in", "proj_out"),
    *(f"transformer_blocks.*.{x}" for x in ("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2")),
    *(f"transformer_blocks.*.{a}.{b}" for a in ("attn1", "attn2") for b in ("to_q", "to_k", "to_v", "to_out.0")),
)


def unet_table(downs: tuple[tuple[int, bool], ...]) -> dict[str, tuple[str, ...]]:
    """The table of a U-Net whose levels have (residual blocks, whether each is followed by attention), the finest first."""
    table = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
        **_residual("middle_block.0", "mid_block.resnets.0"),
        **_attention("middle_block.1", "mid_block.attentions.0"),
        **_residual("middle_block.2", "mid_block.resnets.1"),
    }
    at = 1
    for level, (blocks, attends) in enumerate(downs):
        for block in range(blocks):
            table |= _residual(f"input_blocks.{at}.0", f"down_blocks.{level}.resnets.{block}")
            if attends:
                table |= _attention(f"input_blocks.{at}.1", f"down_blocks.{level}.attentions.{block}")
            at += 1
        if level < len(downs) - 1:
            table[f"input_blocks.{at}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            at += 1
    at = 0
    for level, (blocks, attends) in enumerate(reversed(downs)):
        for block in range(blocks + 1):
            table |= _residual(f"output_blocks.{at}.0", f"up_blocks.{level}.resnets.{block}")
            if attends:
                table |= _attention(f"output_blocks.{at}.1", f"up_blocks.{level}.attentions.{block}")
            at += 1
        if level < len(downs) - 1:
            table[f"output_blocks.{at - 1}.{1 + attends}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return {theirs: (target,) for theirs, target in table.items()}


def controlnet_table(downs: tuple[tuple[int, bool], ...]) -> Table:
    """The table of a ControlNet for such a U-Net."""
    inner = {f"input_hint_block.{2 * i + 2}": (f"controlnet_cond_embedding.blocks.{i}",) for i in range(6)}
    return {
        **unet_table(downs),
        **inner,
        "input_hint_block.0": ("controlnet_cond_embedding.conv_in",),
        "input_hint_block.14": ("controlnet_cond_embedding.conv_out",),
        "zero_convs.*.0": ("controlnet_down_blocks.*",),
        "middle_block_out.0": ("controlnet_mid_block",),
    }


def _residual(original: str, target: str) -> dict[str, str]:
    return {f"{original}.{a}": f"{target}.{b}" for a, b in _RESIDUAL.items()}


def _attention(original: str, target: str) -> dict[str, str]:
    return {f"{original}.{x}": f"{target}.{x}" for x in _ATTENTION}


def sd3_table(depth: int) -> Table:
    table: dict[str, tuple[str, ...]] = {
        "pos_embed": ("pos_embed.pos_embed",),
        "x_embedder.proj": ("pos_embed.proj",),
        "t_embedder.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
        "t_embedder.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
        "y_embedder.mlp.0": ("time_text_embed.text_embedder.linear_1",),
        "y_embedder.mlp.2": ("time_text_embed.text_embedder.linear_2",),
        "context_embedder": ("context_embedder",),
        "final_layer.linear": ("proj_out",),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    }
    for i in range(depth):
        ours, theirs = f"joint_blocks.{i}", f"transformer_blocks.{i}"
        for stream, norm, mlp in (("x_block", "norm1", "ff"), ("context_block", "norm1_context", "ff_context")):
            table[f"{ours}.{stream}.adaLN_modulation.1"] = (f"{theirs}.{norm}.linear",)
            table[f"{ours}.{stream}.mlp.fc1"] = (f"{theirs}.{mlp}.net.0.proj",)
            table[f"{ours}.{stream}.mlp.fc2"] = (f"{theirs}.{mlp}.net.2",)
        for attention in ("attn", "attn2"):
            table[f"{ours}.x_block.{attention}.qkv"] = tuple(f"{theirs}.{attention}.to_{x}" for x in "qkv")
            table[f"{ours}.x_block.{attention}.ln_q"] = (f"{theirs}.{attention}.norm_q",)
            table[f"{ours}.x_block.{attention}.ln_k"] = (f"{theirs}.{attention}.norm_k",)
            table[f"{ours}.x_block.{attention}.proj"] = (f"{theirs}.{attention}.to_out.0",)
        table[f"{ours}.context_block.attn.qkv"] = tuple(f"{theirs}.attn.add_{x}_proj" for x in "qkv")
        table[f"{ours}.context_block.attn.ln_q"] = (f"{theirs}.attn.norm_added_q",)
        table[f"{ours}.context_block.attn.ln_k"] = (f"{theirs}.attn.norm_added_k",)
        table[f"{ours}.context_block.attn.proj"] = (f"{theirs}.attn.to_add_out",)
    return table


def sd3_swapped(depth: int) -> tuple[str, ...]:
    return ("final_layer.adaLN_modulation.1", f"joint_blocks.{depth - 1}.context_block.adaLN_modulation.1")


_STREAMS = {
    f"double_blocks.*.{short}_{a}": tuple(f"transformer_blocks.*.{b}" for b in several)
    for short, table in {
        "img": {
            "mod.lin": ("norm1.linear",),
            "attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
            "attn.norm.query_norm.scale": ("attn.norm_q.weight",),
            "attn.norm.key_norm.scale": ("attn.norm_k.weight",),
            "attn.proj": ("attn.to_out.0",),
            "mlp.0": ("ff.net.0.proj",),
            "mlp.2": ("ff.net.2",),
        },
        "txt": {
            "mod.lin": ("norm1_context.linear",),
            "attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
            "attn.norm.query_norm.scale": ("attn.norm_added_q.weight",),
            "attn.norm.key_norm.scale": ("attn.norm_added_k.weight",),
            "attn.proj": ("attn.to_add_out",),
            "mlp.0": ("ff_context.net.0.proj",),
            "mlp.2": ("ff_context.net.2",),
        },
    }.items()
    for a, several in table.items()
}

FLUX: Table = {
    **{
        f"{a}.{x}": (f"time_text_embed.{b}_embedder.{y}",)
        for a, b in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
        for x, y in (("in_layer", "linear_1"), ("out_layer", "linear_2"))
    },
    "txt_in": ("context_embedder",),
    "img_in": ("x_embedder",),
    **_STREAMS,
    "single_blocks.*.modulation.lin": ("single_transformer_blocks.*.norm.linear",),
    "single_blocks.*.linear1": tuple(
        f"single_transformer_blocks.*.{x}" for x in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    ),
    "single_blocks.*.norm.query_norm.scale": ("single_transformer_blocks.*.attn.norm_q.weight",),
    "single_blocks.*.norm.key_norm.scale": ("single_transformer_blocks.*.attn.norm_k.weight",),
    "single_blocks.*.linear2": ("single_transformer_blocks.*.proj_out",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}


def vae_table(levels: int) -> Table:
    """Of an autoencoder; `VAE_FLAT` of it are 1 x 1 convolutions."""
    table = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for half in ("encoder", "decoder"):
        table |= {f"{half}.{x}": f"{half}.{x}" for x in ("conv_in", "conv_out")} | {f"{half}.norm_out": f"{half}.conv_norm_out"}
        table |= {f"{half}.mid.attn_1.{a}": f"{half}.mid_block.attentions.0.{b}" for a, b in _VAE_ATTENTION.items()}
        for i in range(2):
            table |= _vae_residual(f"{half}.mid.block_{i + 1}", f"{half}.mid_block.resnets.{i}")
    for i in range(levels):
        up = levels - 1 - i
        table |= _vae_residual(f"encoder.down.{i}.block.*", f"encoder.down_blocks.{i}.resnets.*")
        table |= _vae_residual(f"decoder.up.{i}.block.*", f"decoder.up_blocks.{up}.resnets.*")
        table[f"encoder.down.{i}.downsample.conv"] = f"encoder.down_blocks.{i}.downsamplers.0.conv"
        table[f"decoder.up.{i}.upsample.conv"] = f"decoder.up_blocks.{up}.upsamplers.0.conv"
    return {theirs: (target,) for theirs, target in table.items()}


_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
VAE_FLAT = tuple(f"{half}.mid.attn_1.{x}" for half in ("encoder", "decoder") for x in ("q", "k", "v", "proj_out"))
KERNELS = ("quant_conv", "post_quant_conv", "nin_shortcut", "skip_connection")
"""Ends of the names of an autoencoder's and a U-Net's 1 x 1 convolutions."""


def _vae_residual(original: str, target: str) -> dict[str, str]:
    same = {f"{original}.{x}": f"{target}.{x}" for x in ("norm1", "conv1", "norm2", "conv2")}
    return same | {f"{original}.nin_shortcut": f"{target}.conv_shortcut"}


_CLIP_MODULES = (
    *("embeddings.token_embedding", "embeddings.position_embedding", "final_layer_norm"),
    *(f"encoder.layers.*.self_attn.{x}_proj" for x in ("q", "k", "v", "out")),
    *(f"encoder.layers.*.{x}" for x in ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")),
)

CLIP: Table = {
    "text_projection": ("text_projection",),
    "text_model.text_projection": ("text_projection.weight",),
    "text_model.encoder.layers.*.self_attn.in_proj": tuple(f"text_model.encoder.layers.*.self_attn.{x}_proj" for x in "qkv"),
    **{f"{before}{x}": (f"text_model.{x}",) for before in ("text_model.", "") for x in _CLIP_MODULES},
}
"""Of transformers already: the names stay; but for two that stable-diffusion.cpp gives OpenCLIP's."""

OPEN_CLIP: Table = {
    "token_embedding": ("text_model.embeddings.token_embedding",),
    "positional_embedding": ("text_model.embeddings.position_embedding.weight",),
    "ln_final": ("text_model.final_layer_norm",),
    "text_projection": ("text_projection.weight",),  # turned
    "text_projection.weight": ("text_projection.weight",),  # Playground 2, and SDXL as diffusers once wrote it
    **{
        f"transformer.resblocks.*.{a}": tuple(f"text_model.encoder.layers.*.{b}" for b in several)
        for a, several in {
            "ln_1": ("layer_norm1",),
            "ln_2": ("layer_norm2",),
            "attn.in_proj_weight": tuple(f"self_attn.{x}_proj.weight" for x in "qkv"),
            "attn.in_proj_bias": tuple(f"self_attn.{x}_proj.bias" for x in "qkv"),
            "attn.out_proj": ("self_attn.out_proj",),
            "mlp.c_fc": ("mlp.fc1",),
            "mlp.c_proj": ("mlp.fc2",),
        }.items()
    },
}

T5: Table = {
    x: (x,)
    for x in (
        *("shared", "encoder.final_layer_norm", "encoder.block.*.layer.0.layer_norm", "encoder.block.*.layer.1.layer_norm"),
        *(f"encoder.block.*.layer.0.SelfAttention.{y}" for y in ("q", "k", "v", "o", "relative_attention_bias")),
        *(f"encoder.block.*.layer.1.DenseReluDense.{y}" for y in ("wi", "wi_0", "wi_1", "wo")),
    )
}

_T5_GGUF_LAYER = {
    **{f"attn_{x}": f"layer.0.SelfAttention.{x}" for x in "qkvo"},
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
    "attn_norm": "layer.0.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0",
    "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
    "ffn_norm": "layer.1.layer_norm",
}
T5_GGUF: Table = {
    "token_embd": ("shared",),
    "enc.output_norm": ("encoder.final_layer_norm",),
    **{f"enc.blk.*.{a}": (f"encoder.block.*.{b}",) for a, b in _T5_GGUF_LAYER.items()},
}
"""As llama.cpp names a T5 with a gate, which all that pictures are drawn by have."""


def star(name: str) -> str:
    """A name with "*" for every number."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", "*", name)

"""What the shapes of an original file say: its configuration in diffusers' (or transformers') terms, and its layout.

Shapes tell widths, depths and channels. What they do not tell follows the family's rule:

    U-Net        8 heads where the attention is entered by a convolution (SD 1), heads of 64 channels where by a linear layer
                 (SD 2, SDXL), one of which some tools write as the other: SDXL is known by its sizes, SD 1 and 2 by the width of
                 their words; three of SDXL's size embeddings of 256 channels for each of two numbers, five numbers in the refiner
    SD3, 3.5     as many heads, of 64 channels, as blocks (Esser et al. 2024, 2403.03206, section 5.3.2)
    FLUX         rotary axes of 1/8, 7/16 and 7/16 of a head
    autoencoder  32 groups
    CLIP         heads of 64 channels; OpenAI's with quick_gelu, OpenCLIP's with gelu
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from unnoise.checkpoints.diffusers_names import Table
from unnoise.checkpoints.foreign.original_names import (
    CLIP,
    FLUX,
    KERNELS,
    OPEN_CLIP,
    T5,
    T5_GGUF,
    VAE_FLAT,
    Layout,
    controlnet_table,
    pieces,
    sd3_swapped,
    sd3_table,
    unet_table,
    vae_table,
)
from unnoise.checkpoints.foreign.parts import Part
from unnoise.checkpoints.foreign.pieces import MARKS, Cut, Shapes, Store
from unnoise.core.errors import InputError

Config = Mapping[str, Any]
Reading = Callable[[Shapes], tuple[Config, Layout]]
"""Shapes by original names, without prefix -> configuration and layout. InputError for what is incomplete or of another family."""


def unet(shapes: Shapes) -> tuple[Config, Layout]:
    """A U-Net of Stable Diffusion 1, 2 or XL. InputError for another, as by all readings here."""
    if "label_emb.weight" in shapes:  # levels of noise, as classes
        raise InputError("Stable Diffusion's x4 upscaler: known, but not run here")
    config, levels = _way_down(shapes)
    down = [_depths(shapes, "input_blocks", 1 + (blocks + 1) * i, blocks) for i, (blocks, _) in enumerate(levels)]
    up = [_depths(shapes, "output_blocks", (blocks + 1) * i, blocks + 1) for i, (blocks, _) in enumerate(levels)]
    if [depth != 0 for depth in up] != [depth != 0 for depth in down[::-1]]:
        raise InputError(f"its transformers are {down} deep down, {up} up: not Stable Diffusion's")
    more: dict[str, Any] = {} if up == down[::-1] else {"reverse_transformer_layers_per_block": [depth or 1 for depth in up]}
    more |= {
        "_class_name": "UNet2DConditionModel",
        "out_channels": shapes["out.2.weight"][0],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for _, attends in reversed(levels)],
    }
    return {**config, **more}, replace(_layout(config, unet_table(levels)), dropped=MARKS)


def controlnet(shapes: Shapes) -> tuple[Config, Layout]:
    """A ControlNet for one of them."""
    config, levels = _way_down(shapes)
    more = {
        "_class_name": "ControlNetModel",
        "conditioning_embedding_out_channels": [shapes[f"input_hint_block.{i}.weight"][0] for i in (0, 4, 8, 12)],
    }
    return {**config, **more}, _layout(config, controlnet_table(levels))


def _depths(shapes: Shapes, where: str, start: int, blocks: int) -> int | list[int]:
    """Of a level's transformers: one number where they are alike."""
    each = [count(shapes, f"{where}.{start + i}.1.transformer_blocks.") for i in range(blocks)]
    return each[0] if len({*each}) == 1 else each


def _layout(config: Config, table: Table) -> Layout:
    """Of a U-Net, where some tools write linear layers as 1 x 1 convolutions (stable-diffusion.cpp does), or those as matrices."""
    entrances = tuple(module for module in table if module.endswith((".proj_in", ".proj_out")))
    linear = config["use_linear_projection"]
    return Layout(table, flat=entrances if linear else (), kernels=(*_kernels(table), *(() if linear else entrances)))


def _kernels(table: Table) -> tuple[str, ...]:
    return tuple(module for module in table if module.endswith(KERNELS))


def _way_down(shapes: Shapes) -> tuple[Config, tuple[tuple[int, bool], ...]]:
    """What they have in common, and for every level its residual blocks and whether attention follows each."""
    inputs = count(shapes, "input_blocks.")
    halvings = [i for i in range(inputs) if f"input_blocks.{i}.0.op.weight" in shapes]
    starts, ends = [1, *(i + 1 for i in halvings)], [*halvings, inputs]
    blocks = {end - start for start, end in zip(starts, ends)}
    if len(blocks) != 1:
        raise InputError(f"its levels have {sorted(blocks)} blocks: a U-Net of Stable Diffusion has as many in each")
    per_level = blocks.pop()
    widths = [shapes[f"input_blocks.{start}.0.out_layers.3.weight"][0] for start in starts]
    depths = [_depths(shapes, "input_blocks", start, per_level) for start in starts]
    middle = count(shapes, "middle_block.1.transformer_blocks.")
    places = ["middle_block.1", *(f"input_blocks.{i}.1" for i in range(inputs))]
    attention = next((place for place in places if f"{place}.transformer_blocks.0.attn2.to_k.weight" in shapes), None)
    if attention is None:
        raise InputError("it has no transformers: not Stable Diffusion's")
    words = shapes[f"{attention}.transformer_blocks.0.attn2.to_k.weight"][1]
    told = shapes["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shapes else 0
    config: dict[str, Any] = {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": per_level,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "transformer_layers_per_block": [d or 1 for d in depths[:-1]] + [middle or depths[-1] or 1],
        **({} if middle else {"mid_block_type": "UNetMidBlock2D" if "middle_block.0.in_layers.0.weight" in shapes else None}),
        "cross_attention_dim": words,
        **rules(widths, words, told, len(shapes[f"{attention}.proj_in.weight"]) == 2),
    }
    return config, tuple((per_level, depth != 0) for depth in depths)


def rules(widths: list[int], words: int | None, told: int, linear: bool) -> dict[str, Any]:
    """What shapes do not tell of a U-Net or ControlNet. words: their width; told: that of the sizes and what is said beside, 0 for
    none; linear: whether attention is entered by a linear layer, as far as the rank of its weights says it."""
    linear = (linear and words != _CLIP_WIDTH) or bool(told) or words == _OPEN_CLIP_WIDTH
    config: dict[str, Any] = {
        "attention_head_dim": [w // 64 for w in widths] if linear else 8,
        "use_linear_projection": linear,
        "norm_num_groups": 32,
    }
    if told:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": told,
        }
    return config


def sd3(shapes: Shapes) -> tuple[Config, Layout]:
    """The transformer of Stable Diffusion 3 or 3.5."""
    depth = count(shapes, "joint_blocks.")
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    positions = math.isqrt(shapes["pos_embed"][1])
    config = {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["final_layer.linear.weight"][0] // patch**2,
        "num_layers": depth,
        "num_attention_heads": width // 64,
        "attention_head_dim": 64,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "caption_projection_dim": shapes["context_embedder.weight"][0],
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": positions,
        "qk_norm": "rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in shapes else None,
        "dual_attention_layers": [i for i in range(depth) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in shapes],
    }
    return config, Layout(sd3_table(depth), width=width, swapped=sd3_swapped(depth))


def flux(shapes: Shapes) -> tuple[Config, Layout]:
    """The transformer of FLUX.1."""
    width, channels = shapes["img_in.weight"]
    head = shapes["double_blocks.0.img_attn.norm.query_norm.scale"][0]
    out = shapes["final_layer.linear.weight"][0]
    config = {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": None if out == channels else out,
        "num_layers": count(shapes, "double_blocks."),
        "num_single_layers": count(shapes, "single_blocks."),
        **flux_heads(width, head),
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
    }
    return config, Layout(FLUX, width=width, swapped=("final_layer.adaLN_modulation.1",))


def flux_heads(width: int, head: int) -> Config:
    """What FLUX's width and the size of its heads say, under diffusers' names."""
    axes = [head // 8, head * 7 // 16, head * 7 // 16]
    return {"attention_head_dim": head, "num_attention_heads": width // head, "axes_dims_rope": axes}


def vae(shapes: Shapes) -> tuple[Config, Layout]:
    """Without scaling_factor and shift_factor, which belong to the family."""
    levels = count(shapes, "encoder.down.")
    config = {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)],
        "layers_per_block": count(shapes, "encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    }
    table = vae_table(levels)
    return config, Layout(table, flat=VAE_FLAT, kernels=_kernels(table), dropped=("loss.", "model_ema.", "logvar"))


def clip(shapes: Shapes) -> tuple[Config, Layout]:
    """OpenAI's text encoder without its projection, under transformers' names: what Stable Diffusion 1, SDXL and FLUX read."""
    if "embeddings.token_embedding.weight" in shapes:  # as older versions of transformers wrote it
        shapes = Shapes({f"text_model.{name}": shape for name, shape in shapes.items()})
    return _clip_config(shapes, "quick_gelu", projected=False), Layout(CLIP, dropped=(*_CLIP_LEFT, *_PROJECTION))


def clip_projected(shapes: Shapes) -> tuple[Config, Layout]:
    """OpenCLIP's under transformers' names, with its projection: the second of SD3."""
    if not any(name in shapes for name in _PROJECTION):
        raise InputError("the file lacks 'text_projection.weight', which this text encoder needs")
    config = _clip_config(shapes, "gelu", projected=True)
    return config, Layout(CLIP, width=config["hidden_size"], dropped=_CLIP_LEFT)


def clip_renamed(shapes: Shapes) -> tuple[Config, Layout]:
    """OpenCLIP's under the names that stable-diffusion.cpp gives the second of SDXL, whose projection is as OpenCLIP has it."""
    config, layout = clip_projected(shapes)
    turned = _PROJECTION[1]
    return {**config, "projection_dim": shapes.get(turned, (0, config["projection_dim"]))[1]}, replace(layout, turned=(turned,))


def clip_penultimate(shapes: Shapes) -> tuple[Config, Layout]:
    """OpenCLIP's in Stable Diffusion 2 under transformers' names: as `open_clip_penultimate`."""
    config = _clip_config(shapes, "gelu", projected=False)
    last = _penultimate(config["num_hidden_layers"], "text_projection.weight" in shapes)
    dropped = (*_CLIP_LEFT, *_PROJECTION, f"text_model.encoder.layers.{last}.")
    return {**config, "num_hidden_layers": last}, Layout(CLIP, width=config["hidden_size"], dropped=dropped)


def clip_by_width(shapes: Shapes) -> tuple[Config, Layout]:
    """One of them, in a file of its own, or the text half of a whole CLIP, or the first of a model: OpenCLIP's are wider."""
    width = shapes["text_model.embeddings.token_embedding.weight"][1]
    return (clip if width < _OPEN_CLIP_WIDTH else clip_penultimate if width == _OPEN_CLIP_WIDTH else clip_renamed)(shapes)


def open_clip(shapes: Shapes) -> tuple[Config, Layout]:
    """OpenCLIP's text encoder with its projection: the second of SDXL."""
    config = _open_clip_config(shapes, count(shapes, "transformer.resblocks."), projected=True)
    return config, Layout(OPEN_CLIP, width=config["hidden_size"], turned=("text_projection",), dropped=_CLIP_LEFT)


def open_clip_penultimate(shapes: Shapes) -> tuple[Config, Layout]:
    """OpenCLIP's in Stable Diffusion 2, which reads the layer before the last: the last is left away, as diffusers does.

    Files that were written from diffusers' folders lack it already, and the projection with it.
    """
    last = _penultimate(count(shapes, "transformer.resblocks."), "text_projection" in shapes)
    config = _open_clip_config(shapes, last, projected=False)
    dropped = (*_CLIP_LEFT, "text_projection", f"transformer.resblocks.{last}.")
    return config, Layout(OPEN_CLIP, width=config["hidden_size"], dropped=dropped)


def _penultimate(layers: int, whole: bool) -> int:
    """How many are read. whole: whether there is a projection, which files that lack the last layer already lack too."""
    return layers - 1 if layers == _OPEN_CLIP_H or whole else layers


_OPEN_CLIP_H, _OPEN_CLIP_WIDTH = 24, 1024
"""Layers of the whole encoder of Stable Diffusion 2, and its width."""
_CLIP_WIDTH = 768
"""Of Stable Diffusion 1's."""
_CLIP_LEFT = (
    *("logit_scale", "text_model.embeddings.position_ids", "embeddings.position_ids", "attn_mask"),
    *("vision_model.", "visual_projection"),  # of a whole CLIP
)
_PROJECTION = ("text_projection.weight", "text_model.text_projection")
"""transformers' name, and stable-diffusion.cpp's."""


def _clip_config(shapes: Shapes, activation: str, projected: bool) -> dict[str, Any]:
    words, width = shapes["text_model.embeddings.token_embedding.weight"]
    return _text_config(
        words,
        width,
        shapes["text_model.embeddings.position_embedding.weight"][0],
        count(shapes, "text_model.encoder.layers."),
        shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        activation,
        projected,
        next((shapes[name][0] for name in _PROJECTION if name in shapes), width),
    )


def _open_clip_config(shapes: Shapes, layers: int, projected: bool) -> dict[str, Any]:
    words, width = shapes["token_embedding.weight"]
    hidden = shapes["transformer.resblocks.0.mlp.c_fc.weight"][0]
    straight, turned = (shapes.get(f"text_projection{end}") for end in (".weight", ""))
    out = straight[0] if straight else turned[1] if turned else width
    return _text_config(words, width, shapes["positional_embedding"][0], layers, hidden, "gelu", projected, out)


def _text_config(
    words: int, width: int, places: int, layers: int, hidden: int, activation: str, projected: bool, out: int
) -> dict[str, Any]:
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": hidden,
        "max_position_embeddings": places,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "projection_dim": out,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,  # as in the published configurations: end tokens are found as the largest number
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def t5(shapes: Shapes) -> tuple[Config, Layout]:
    """The encoder of a T5."""
    first = "encoder.block.0.layer.0.SelfAttention"
    words, width = shapes["shared.weight"]
    if f"{first.replace('0', '1', 1)}.relative_attention_bias.weight" in shapes:
        raise InputError("this is UMT5, which Wan reads; what is run here reads T5 1.1")
    buckets, heads = shapes[f"{first}.relative_attention_bias.weight"]
    gated = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" in shapes
    config = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": words,
        "d_model": width,
        "d_kv": shapes[f"{first}.q.weight"][0] // heads,
        "d_ff": shapes[f"encoder.block.0.layer.1.DenseReluDense.{'wi_0' if gated else 'wi'}.weight"][0],
        "num_layers": count(shapes, "encoder.block."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu" if gated else "relu",
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": False,
        "tie_word_embeddings": False,
    }
    return config, Layout(T5, dropped=("encoder.embed_tokens", "decoder.", "lm_head", "logit_scale"))


def t5_of_gguf(shapes: Shapes) -> tuple[Config, Layout]:
    """The same under llama.cpp's names."""
    layout = Layout(T5_GGUF, dropped=("dec.", "output."))
    config, _ = t5(Shapes({name: piece.shape for name, piece in pieces(shapes, layout, "").items()}))
    return config, layout


def count(shapes: Shapes, prefix: str) -> int:
    """How many numbered modules follow a prefix. InputError where one between is missing."""
    numbers = {int(n) for name in shapes if name.startswith(prefix) and (n := name[len(prefix) :].partition(".")[0]).isdigit()}
    if numbers and len(numbers) != max(numbers) + 1:
        gap = min(set(range(max(numbers))) - numbers)
        raise InputError(f"the file lacks all of {prefix}{gap}; it is incomplete, or parts of two models mixed up")
    return len(numbers)


NETWORKS: tuple[tuple[str, str, Reading], ...] = (
    ("unet", "input_blocks.0.0.weight", unet),
    ("transformer", "joint_blocks.0.x_block.attn.qkv.weight", sd3),
    ("transformer", "double_blocks.0.img_attn.qkv.weight", flux),
)
"""diffusers' name of the part, a tensor that only this network has, and how it is read."""

NETWORK_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.", "module.", "net.", "")


def part(store: Store, prefix: str, reading: Reading, where: str) -> Part:
    """The part of a file whose tensors' names begin with `prefix`. InputError where it is incomplete, or of another family."""
    shapes = Shapes({name: shape for name, shape in store.shapes.below(prefix).items() if name not in MARKS})
    try:
        config, layout = reading(shapes)
        return Part(config, Cut(store, pieces(shapes, layout, prefix)), where)
    except InputError as e:
        raise InputError(f"{where}: {e}") from None

"""ControlNets under diffusers' names whose config.json is not beside them: what it would say, by the shapes of their tensors.

What shapes do not tell follows the rules of the original files (`original_configs`), and these:

    SD3, 3.5     heads of 64 channels, where no normalisation says their width. Those with words were trained by InstantX and after:
                 told no summary, and shown encoded pictures whose mean had been left in (force_zeros_for_pooled_projection, which
                 is also the class's default); those without words, for Stable Diffusion 3.5 large, as states have them
    FLUX         patches of 2 x 2 where the control picture enters through convolutions (XLabs)
"""

import math

from unnoise.checkpoints.foreign.original_configs import Config, count, flux_heads, rules
from unnoise.checkpoints.foreign.pieces import Shapes


def controlnet_of_diffusers(shapes: Shapes) -> Config | None:
    """Of a ControlNet for Stable Diffusion 1, 2, XL (of several kinds of pictures too) or 3, or for FLUX; None for anything else.

    InputError for one that is incomplete.
    """
    for signs, read in _READINGS:
        if set(signs) <= set(shapes):
            return read(shapes)
    return None


def _controlnet(shapes: Shapes) -> Config:
    """What config.json would say of a ControlNet for Stable Diffusion under diffusers' names; of several kinds of pictures too."""
    levels = range(count(shapes, "down_blocks.") or 1)
    widths = [shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in levels]
    depths = [count(shapes, f"down_blocks.{i}.attentions.0.transformer_blocks.") for i in levels]
    middle = count(shapes, "mid_block.attentions.0.transformer_blocks.")
    words = next((shape[1] for name, shape in shapes.items() if name.endswith(".attn2.to_k.weight")), None)
    linear = any(len(shape) == 2 for name, shape in shapes.items() if name.endswith(".proj_in.weight"))
    told = shapes["add_embedding.linear_1.weight"][1] if "add_embedding.linear_1.weight" in shapes else 0
    hints = range(1, count(shapes, "controlnet_cond_embedding.blocks."), 2)
    config = {
        "_class_name": "ControlNetModel",
        "in_channels": shapes["conv_in.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": count(shapes, "down_blocks.0.resnets."),
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "transformer_layers_per_block": [d or 1 for d in depths[:-1]] + [middle or depths[-1] or 1],
        "cross_attention_dim": words,
        "conditioning_embedding_out_channels": [
            shapes["controlnet_cond_embedding.conv_in.weight"][0],
            *(shapes[f"controlnet_cond_embedding.blocks.{i}.weight"][0] for i in hints),
        ],
        **rules(widths, words, told, linear),
    }
    if "task_embedding" in shapes:
        kinds = shapes["task_embedding"][0]
        config["num_trans_layer"] = count(shapes, "transformer_layes.")  # so misspelt
        config["addition_time_embed_dim"] = shapes["control_add_embedding.linear_1.weight"][1] // kinds
    return config


def _sd3(shapes: Shapes) -> Config:
    width, shown, patch, _ = shapes["pos_embed_input.proj.weight"]
    blocks, words, placed = "transformer_blocks.", "context_embedder.weight" in shapes, "pos_embed.proj.weight" in shapes
    depth = count(shapes, blocks)
    head = shapes[f"{blocks}0.attn.norm_q.weight"][0] if f"{blocks}0.attn.norm_q.weight" in shapes else 64
    channels = shapes["pos_embed.proj.weight"][1] if placed else shown
    positions = math.isqrt(shapes["pos_embed.pos_embed"][1]) if placed else 96
    return {
        "_class_name": "SD3ControlNetModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": channels,
        "num_layers": depth,
        "num_attention_heads": width // head,
        "attention_head_dim": head,
        "joint_attention_dim": shapes["context_embedder.weight"][1] if words else None,
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "pos_embed_max_size": positions,
        "use_pos_embed": placed,
        "qk_norm": "rms_norm" if f"{blocks}0.attn.norm_q.weight" in shapes else None,
        "dual_attention_layers": [i for i in range(depth) if f"{blocks}{i}.attn2.to_q.weight" in shapes],
        "force_zeros_for_pooled_projection": words,
    }


def _flux(shapes: Shapes) -> Config:
    joint, single = count(shapes, "transformer_blocks."), count(shapes, "single_transformer_blocks.")
    width, channels = shapes["x_embedder.weight"]
    head = shapes[f"{'' if joint else 'single_'}transformer_blocks.0.attn.norm_q.weight"][0]
    pixels = "input_hint_block.conv_out.weight"
    return {
        "_class_name": "FluxControlNetModel",
        "patch_size": 2 if pixels in shapes else 1,
        "in_channels": channels,
        "num_layers": joint,
        "num_single_layers": single,
        **flux_heads(width, head),
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        "num_mode": shapes["controlnet_mode_embedder.weight"][0] if "controlnet_mode_embedder.weight" in shapes else None,
        "conditioning_embedding_channels": shapes[pixels][0] if pixels in shapes else None,
    }


_TOLD = "time_text_embed.timestep_embedder.linear_1.weight"
_READINGS = (
    (("controlnet_cond_embedding.conv_in.weight",), _controlnet),
    (("pos_embed_input.proj.weight", _TOLD), _sd3),
    (("controlnet_x_embedder.weight", "x_embedder.weight", _TOLD), _flux),
)
"""Tensors that only these have, under diffusers' names, and how they are read."""

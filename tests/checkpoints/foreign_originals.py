"""diffusers' and transformers' tensors under the names of the original files: the way back, written for the tests alone."""

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Names = Mapping[str, str]


def unet(state: Mapping[str, Tensor], blocks: int, prefix: str = "model.diffusion_model.") -> dict[str, Tensor]:
    """CompVis': blocks counted through. blocks: residual blocks of a level."""
    more = blocks + 1
    attends = {m[1] for name in state if (m := re.match(r"up_blocks\.(\d+)\.attentions", name))}
    rules: list[tuple[str, Callable[[re.Match], str]]] = [
        (r"down_blocks\.(\d+)\.resnets\.(\d+)\.", lambda m: f"input_blocks.{more * int(m[1]) + int(m[2]) + 1}.0."),
        (r"down_blocks\.(\d+)\.attentions\.(\d+)\.", lambda m: f"input_blocks.{more * int(m[1]) + int(m[2]) + 1}.1."),
        (r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.", lambda m: f"input_blocks.{more * (int(m[1]) + 1)}.0.op."),
        (r"up_blocks\.(\d+)\.resnets\.(\d+)\.", lambda m: f"output_blocks.{more * int(m[1]) + int(m[2])}.0."),
        (r"up_blocks\.(\d+)\.attentions\.(\d+)\.", lambda m: f"output_blocks.{more * int(m[1]) + int(m[2])}.1."),
        (
            r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.",
            lambda m: f"output_blocks.{more * int(m[1]) + blocks}.{2 if m[1] in attends else 1}.conv.",
        ),
        (r"mid_block\.resnets\.(\d)\.", lambda m: f"middle_block.{2 * int(m[1])}."),
        (r"mid_block\.attentions\.0\.", lambda m: "middle_block.1."),
    ]
    plain = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    inner = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    out = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition(".")
        if module in plain:
            new = f"{plain[module]}.{leaf}"
        else:
            new = next(re.sub(pattern, rule, name) for pattern, rule in rules if re.match(pattern, name))
            if ".resnets." in name:
                new = f"{new.rsplit('.', 2)[0]}.{inner[name.split('.')[-2]]}.{leaf}"
        out[prefix + new] = value
    return out


def vae(state: Mapping[str, Tensor], levels: int, prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    out = {}
    for name, value in state.items():
        new = re.sub(r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block", name)
        new = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", new)
        new = re.sub(r"decoder\.up_blocks\.(\d)\.resnets", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.block", new)
        new = re.sub(r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in new:
            for a, b in {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}.items():
                new = new.replace(f"mid_block.attentions.0.{a}", f"mid.attn_1.{b}")
            value = value[:, :, None, None] if value.ndim == 2 else value
        out[prefix + new] = value
    return out


def open_clip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    out = {}
    for name, value in _joined(state, "self_attn", ("q_proj", "k_proj", "v_proj"), "attn.in_proj_").items():
        new = name.removeprefix("text_model.").replace("encoder.layers.", "transformer.resblocks.")
        for a, b in {
            "embeddings.token_embedding": "token_embedding",
            "embeddings.position_embedding.weight": "positional_embedding",
            "final_layer_norm": "ln_final",
            "layer_norm": "ln_",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
            "self_attn": "attn",
            "in_proj_.": "in_proj_",
        }.items():
            new = new.replace(a, b)
        if new == "text_projection.weight":
            new, value = "text_projection", value.T.contiguous()
        out[prefix + new] = value
    return out


def sd3(state: Mapping[str, Tensor], prefix: str = "model.diffusion_model.") -> dict[str, Tensor]:
    joined = _joined(state, "attn", ("add_q_proj", "add_k_proj", "add_v_proj"), "CONTEXT.attn.qkv")
    joined = _joined(joined, "attn", ("to_q", "to_k", "to_v"), "x_block.attn.qkv")
    joined = _joined(joined, "attn2", ("to_q", "to_k", "to_v"), "x_block.attn2.qkv")
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks."))
    swapped = ("norm_out.linear", f"transformer_blocks.{depth - 1}.norm1_context.linear")
    names = {
        "CONTEXT.": "context_block.",
        "pos_embed.pos_embed": "pos_embed",
        "pos_embed.proj": "x_embedder.proj",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "norm1.linear": "x_block.adaLN_modulation.1",
        "norm1_context.linear": "context_block.adaLN_modulation.1",
        "attn.norm_added_": "context_block.attn.ln_",
        "attn.norm_": "x_block.attn.ln_",
        "attn2.norm_": "x_block.attn2.ln_",
        "attn.to_out.0": "x_block.attn.proj",
        "attn2.to_out.0": "x_block.attn2.proj",
        "attn.to_add_out": "context_block.attn.proj",
        "ff_context.net.0.proj": "context_block.mlp.fc1",
        "ff_context.net.2": "context_block.mlp.fc2",
        "ff.net.0.proj": "x_block.mlp.fc1",
        "ff.net.2": "x_block.mlp.fc2",
        "transformer_blocks.": "joint_blocks.",
    }
    return _renamed(joined, names, {"proj_out": "final_layer.linear"}, swapped, prefix)


def flux(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    joined = _joined(state, "attn", ("add_q_proj", "add_k_proj", "add_v_proj"), "txt_attn.qkv", only="transformer_blocks.")
    joined = _joined(joined, "attn", ("to_q", "to_k", "to_v"), "img_attn.qkv", only="transformer_blocks.")
    four = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    joined = _joined(joined, "", four, "linear1", only="single_transformer_blocks.")
    joined = {
        re.sub(r"^single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2", name): value
        for name, value in joined.items()
    }
    both = {
        "single_transformer_blocks.": "single_blocks.",
        "transformer_blocks.": "double_blocks.",
        "time_text_embed.timestep_embedder": "time_in",
        "time_text_embed.text_embedder": "vector_in",
        "time_text_embed.guidance_embedder": "guidance_in",
        "linear_1": "in_layer",
        "linear_2": "out_layer",
        "context_embedder": "txt_in",
        "x_embedder": "img_in",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "norm1.linear": "img_mod.lin",
        "norm1_context.linear": "txt_mod.lin",
        "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
        "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
        "ff_context.net.0.proj": "txt_mlp.0",
        "ff_context.net.2": "txt_mlp.2",
        "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2",
        ".norm.linear": ".modulation.lin",
    }
    renamed = _renamed(joined, both, {"proj_out": "final_layer.linear"}, ("norm_out.linear",), prefix)
    out = {}
    for name, value in renamed.items():
        stream = "norm" if "single_blocks." in name else "img_attn.norm"
        name = name.replace("attn.norm_q.weight", f"{stream}.query_norm.scale")
        out[name.replace("attn.norm_k.weight", f"{stream}.key_norm.scale")] = value
    return out


def _joined(state: Mapping[str, Tensor], below: str, parts: tuple[str, ...], into: str, only: str = "") -> dict[str, Tensor]:
    """Rows of several modules laid under one another, in the place of the first."""
    out = dict(state)
    first = f"{below}.{parts[0]}" if below else parts[0]
    for name in [n for n in state if n.startswith(only) and re.search(rf"\.{re.escape(first)}\.\w+$", n)]:
        stem, leaf = name[: name.rindex(f".{first}.")], name.rpartition(".")[2]
        names = [f"{stem}.{below}.{p}.{leaf}" if below else f"{stem}.{p}.{leaf}" for p in parts]
        value = torch.cat([out.pop(n) for n in names])
        out[f"{stem}.{into}{leaf}" if into.endswith("_") else f"{stem}.{into}.{leaf}"] = value
    return out


def _renamed(state: Mapping[str, Tensor], names: Names, whole: Names, swapped: tuple[str, ...], prefix: str) -> dict[str, Tensor]:
    out = {}
    for name, value in state.items():
        module, _, leaf = name.rpartition(".")
        if module in swapped:
            value = torch.cat(value.chunk(2)[::-1])
        if module in whole:
            name = f"{whole[module]}.{leaf}"
        else:
            for a, b in names.items():
                name = re.sub(rf"(?<![a-z_0-9]){re.escape(a)}" if a[0] != "." else re.escape(a), b, name)
        out[prefix + name] = value
    return out

"""What a file or folder is that cannot be run: its family by the names of its tensors, or by the class its configuration names.

Each family has signs: names, "*" standing for any number, all of which it has and no other family known here; more than one list
where it comes in several forms. Names count without what their writers put before them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unnoise.checkpoints.foreign.original_names import (
    CLIP,
    FLUX,
    OPEN_CLIP,
    T5,
    Table,
    lookup,
    sd3_table,
    star,
    unet_table,
    vae_table,
)
from unnoise.core.errors import InputError

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.", "transformer.", "net.")


@dataclass(frozen=True)
class Other:
    """A kind of file that is no model to be run. signs: lists of names, any one of which tells it. instead: what to do."""

    name: str
    signs: tuple[tuple[str, ...], ...]
    instead: str = "it is known here, but cannot be run"


_GIVE = "it is no model; give it beside the model it was made for"

OTHERS = (
    # made for a model, not one
    Other("a ControlNet", (("control_model.time_embed.0.weight",), ("controlnet_cond_embedding.conv_in.weight",)), _GIVE),
    Other(
        "a ControlNet",
        (("controlnet_x_embedder.weight",), ("controlnet_blocks.*.weight",), ("control_layers.*.attention.to_q.weight",)),
        _GIVE,
    ),
    Other("a T2I-Adapter", (("body.*.in_conv.weight",), ("body.*.block1.weight",), ("adapter.body.*.in_conv.weight",)), _GIVE),
    Other("an IP-Adapter", (("ip_adapter.*.to_k_ip.weight",), ("image_proj.proj.weight",), ("image_proj.latents",)), _GIVE),
    Other("FLUX.1 Redux, an adapter", (("redux_up.weight", "redux_down.weight"),), _GIVE),
    Other("a textual inversion", (("emb_params",), ("clip_l", "clip_g"), ("string_to_param.*",)), _GIVE),
    Other("AnimateDiff's motion module", (("down_blocks.*.motion_modules.*.temporal_transformer.norm.weight",),), "video"),
    Other("a picture enlarger (ESRGAN)", (("model.*.sub.*.RDB1.conv1.*.weight",), ("body.*.rdb1.conv1.weight",))),
    Other("CLIP's image encoder", (("vision_model.embeddings.patch_embedding.weight",), ("visual.conv1.weight",)), _GIVE),
    Other("TAESD, a small autoencoder", (("*.weight", "*.conv.*.weight"), ("decoder.layers.*.conv.*.weight",)), _GIVE),
    # video
    Other("Stable Video Diffusion", (("input_blocks.*.*.time_stack.in_layers.*.weight",),)),
    Other("Wan", (("head.modulation", "patch_embedding.weight"), ("blocks.*.self_attn.norm_q.weight", "text_embedding.*.weight"))),
    Other("Wan's autoencoder", (("decoder.middle.*.residual.*.gamma",),)),
    Other("HunyuanVideo", (("txt_in.individual_token_refiner.blocks.*.adaLN_modulation.*.weight",),)),
    Other("LTX-Video", (("patchify_proj.weight", "adaln_single.linear.weight"), ("vae.per_channel_statistics.mean-of-means",))),
    Other("Mochi", (("blocks.*.attn.qkv_x.weight",),)),
    Other("CogVideoX", (("transformer.layers.*.attention.query_key_value.weight",), ("mixins.final_layer.linear.weight",))),
    Other("Cosmos", (("extra_pos_embedder.pos_emb_h",), ("blocks.*.self_attn.q_proj.weight", "x_embedder.proj.*.weight"))),
    # sound
    Other("Stable Audio", (("model.model.to_timestep_embed.*.weight",), ("pretransform.model.decoder.layers.*.weight_g",))),
    Other("AudioLDM", (("clap.model.text_projection.*.weight",), ("cond_stage_model.model.text_projection.*.weight",))),
    # pictures
    Other("FLUX.2", (("single_stream_modulation.lin.weight",),)),
    Other("Chroma", (("distilled_guidance_layer.in_proj.weight",),)),
    Other("Qwen-Image", (("transformer_blocks.*.img_mod.*.weight", "txt_norm.weight"),)),
    Other("Z-Image", (("cap_embedder.*.weight", "layers.*.adaLN_modulation.*.weight", "x_pad_token"),)),
    Other("Lumina", (("cap_embedder.*.weight", "layers.*.adaLN_modulation.*.weight"), ("layers.*.attention.wq.weight",))),
    Other("HiDream", (("double_stream_blocks.*.block.adaLN_modulation.*.weight",),)),
    Other("AuraFlow", (("double_layers.*.attn.w1q.weight",),)),
    Other("Stable Cascade", (("clip_txt_mapper.weight",), ("down_blocks.*.*.channelwise.*.weight",), ("effnet_mapper.*.weight",))),
    Other("Kandinsky", (("text_transformer_blocks.*.self_attention.to_query.weight",), ("input_blocks.*.*.encoder_kv.weight",))),
    Other("DeepFloyd IF", (("encoder_pooling.*.weight", "input_blocks.*.*.weight"), ("aug_proj.*.weight",))),
    Other("Hunyuan-DiT", (("blocks.*.default_modulation.*.weight", "mlp_t5.*.weight"),)),
    Other("OmniGen", (("llm.layers.*.self_attn.qkv_proj.weight",),)),
    Other("Playground v2.5", (("edm_mean", "edm_std"),)),
    Other("CosXL", (("edm_vpred.sigma_max",),)),
    Other("Stable unCLIP", (("embedder.model.visual.conv1.weight",), ("noise_augmentor.data_mean",))),
    Other(
        "Sana under its original names",
        (("blocks.*.cross_attn.q_linear.weight", "blocks.*.mlp.inverted_conv.conv.weight"),),
        "give the folder in diffusers' layout",
    ),
    Other(
        "PixArt under its original names",
        (("blocks.*.cross_attn.q_linear.weight", "blocks.*.scale_shift_table"),),
        "give the folder in diffusers' layout",
    ),
    Other(
        "a network of diffusers' layout",
        (
            ("conv_in.weight", "down_blocks.*.resnets.*.conv1.weight"),
            ("transformer_blocks.*.attn.to_q.weight",),
            ("encoder.down_blocks.*.resnets.*.conv1.weight",),
            ("transformer_blocks.*.attn1.to_q.weight",),
        ),
        "give the folder it lies in, with its config.json",
    ),
)
"""In order: the first that fits counts."""

_LORA = (".lora_up.", ".lora_down.", ".lora_A.", ".lora_B.", ".lora.up.", ".hada_w1_a", ".lokr_w1", ".lora_up", "_lora.up.")

_CLASSES = {
    "Animate": "AnimateDiff",
    "MotionAdapter": "AnimateDiff",
    "Wan": "Wan",
    "HunyuanVideo": "HunyuanVideo",
    "HunyuanDiT": "Hunyuan-DiT",
    "CogVideoX": "CogVideoX",
    "CogView": "CogView",
    "LTX": "LTX-Video",
    "Mochi": "Mochi",
    "Allegro": "Allegro",
    "Cosmos": "Cosmos",
    "StableVideoDiffusion": "Stable Video Diffusion",
    "UNetSpatioTemporal": "Stable Video Diffusion",
    "StableAudio": "Stable Audio",
    "AudioLDM": "AudioLDM",
    "MusicLDM": "MusicLDM",
    "Kandinsky": "Kandinsky",
    "UnCLIP": "unCLIP",
    "StableUnCLIP": "Stable unCLIP",
    "PixArtAlpha": "PixArt-alpha",
    "Wuerstchen": "Würstchen",
    "StableCascade": "Stable Cascade",
    "IFPipeline": "DeepFloyd IF",
    "IFSuperResolution": "DeepFloyd IF",
    "QwenImage": "Qwen-Image",
    "ZImage": "Z-Image",
    "HiDream": "HiDream",
    "Lumina": "Lumina",
    "AuraFlow": "AuraFlow",
    "Chroma": "Chroma",
    "Flux2": "FLUX.2",
    "OmniGen": "OmniGen",
    "LatentConsistency": "a pipeline of latent consistency models",
    "DiT": "DiT",
    "Shap": "Shap-E",
}
"""Beginnings of the names of diffusers' classes -> the family."""

_RUN: Mapping[str, Table] = {
    "Stable Diffusion's U-Net": unet_table(((2, True),) * 3 + ((2, False),)) | unet_table(((2, False), (2, True), (2, True))),
    "Stable Diffusion 3": sd3_table(38),
    "FLUX.1": FLUX,
    "an autoencoder of Stable Diffusion": vae_table(4),
    "CLIP's text encoder": {**CLIP, **OPEN_CLIP},
    "T5": T5,
}


def other_family(names: Iterable[str]) -> Other | None:
    """What a file is that is not run here, if its tensors' names say so; a LoRA too."""
    bare = [_bare(name) for name in names]
    if any(mark in f".{name}" or name.endswith(mark) for name in bare for mark in _LORA):
        return Other("a LoRA", (), _GIVE)
    have = {star(name) for name in bare}
    for other in OTHERS:
        if any(all(star(sign) in have for sign in signs) for signs in other.signs):
            return other
    return None


def class_family(name: str) -> str | None:
    """The family of a class of diffusers' that is not run here, such as WanPipeline or WanTransformer3DModel."""
    found = [start for start in _CLASSES if name.startswith(start)]
    return _CLASSES[max(found, key=len)] if found else None


def refuse_other(names: Iterable[str], where: object) -> None:
    """InputError for a file of a family that is known but not run, and for a LoRA or the like."""
    if (other := other_family(names)) is not None:
        raise InputError(f"{where}: this is {other.name}; {other.instead}")


def unknown(names: Iterable[str], where: object) -> InputError:
    """The error for names that no family has: the nearest, in which most of them have a place, and some that have none."""
    bare = sorted({_bare(name) for name in names})
    if not bare:
        return InputError(f"{where}: holds no tensors")
    strange = {family: [n for n in bare if not _placed(n, table)] for family, table in _RUN.items()}
    nearest = min(strange, key=lambda family: len(strange[family]))
    if len(strange[nearest]) == len(bare):
        return InputError(f"{where}: an unknown architecture, near none that is run here; its tensors are called {_some(bare)}")
    return InputError(
        f"{where}: an unknown architecture; the nearest is {nearest}, which has no place for {len(strange[nearest])} of its "
        f"{len(bare)} tensors: {_some(strange[nearest])}"
    )


def refuse_pickle(path: Path) -> None:
    """InputError for a file that Python would run when it opens it, by its name or its first bytes, with the way to convert it."""
    with open(path, "rb") as file:
        start = file.read(9)
    looks = start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    if start[8:] == b"{" or not (looks or path.suffix.lower() in _PICKLES):  # a safetensors header begins so, whatever its length
        return
    new = path.with_suffix(".safetensors").name
    raise InputError(
        f"{path}: a pickle, which may run anything when it is opened; take its safetensors, or convert it: python -c "
        f"\"import torch, safetensors.torch as s; d = torch.load('{path.name}', map_location='cpu', weights_only=True); "
        f"d = d.get('state_dict', d); d = {{k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}}; "
        f"s.save_file(d, '{new}')\""
    )


_PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"}


def _bare(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _placed(name: str, table: Table) -> bool:
    return lookup(name, table) is not None or lookup(name.rpartition(".")[0], table) is not None


def _some(names: list[str]) -> str:
    return ", ".join(repr(n) for n in names[:3]) + (" ..." if len(names) > 3 else "")

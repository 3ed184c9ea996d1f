"""What a file or folder is that cannot be run: its family by the names of its tensors, or by the class its configuration names.

Each family has signs: modules, "*" standing for any number, all of which it has and no other family known here; more than one list
where it comes in several forms. Names count without what their writers put before them, and without ".weight" or ".bias".
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from unnoise.checkpoints.diffusers_names import Table, lookup
from unnoise.checkpoints.foreign.mapped import refuse_pointer
from unnoise.checkpoints.foreign.original_names import CLIP, FLUX, OPEN_CLIP, T5, sd3_table, star, unet_table, vae_table
from unnoise.core.errors import InputError

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.", "transformer.", "net.")


@dataclass(frozen=True)
class Other:
    """A kind of file that is no model to be run. signs: lists of modules, any one of which tells it. instead: what to do."""

    name: str
    signs: tuple[tuple[str, ...], ...]
    instead: str = "it is known here, but cannot be run"


_GIVE = "it is no model; give it with the model it was made for (--lora, --control, --picture-prompt, --embedding)"
_FOLDER = "give the folder in diffusers' layout"
_PROMPTS = "not run here; for FLUX.1 XLabs' IP-Adapters are, and FLUX.1 Redux (--picture-prompt)"
_CONTROLLED = "not run here; plain ControlNets, ControlNet-Union and Control-LoRAs are (--control)"
_BLOCKS = ("down_blocks.*.", "mid_block.", "up_blocks.*.")
_DIFFUSERS = (
    *("conv_in", "patch_embed.proj", "pos_embed.proj", "transformer_blocks.*.attn.to_q", "transformer_blocks.*.attn1.to_q"),
    *("encoder.down_blocks.*.resnets.*.conv1", "encoder.down_blocks.*.*.conv1", "blocks.*.attn1.to_q", "layers.*.attn.to_q"),
    *("joint_transformer_blocks.*.attn.to_q", "down_blocks.*.resnets.*.conv1", "decoder.layers.*.conv.*"),
)

_OF_DIFFUSERS = Other(
    "a network of diffusers",
    tuple((sign,) for sign in _DIFFUSERS),
    "give the folder of the whole model, and this file beside it (--beside)",
)

OTHERS = (
    # made for a model, not one
    Other(
        "a Control-LoRA",
        (("lora_controlnet",),),
        _GIVE,
    ),
    Other(
        "a ControlNet", (("control_model.time_embed.0",), ("controlnet_cond_embedding.conv_in",), ("controlnet_blocks.*",)), _GIVE
    ),
    Other(
        "a ControlNet",
        (("controlnet_cond_embedding",), ("control_all_x_embedder.2-1",), ("control_layers.*.adaLN_modulation.*",)),
        _GIVE,
    ),
    Other("a T2I-Adapter", (("body.*.in_conv",), ("body.*.block1",), ("adapter.body.*.resnets.*.block1",)), _GIVE),
    Other("an IP-Adapter for Stable Diffusion 3.5", (("ip_adapter.*.norm_ip.linear",),), _GIVE),
    Other("an IP-Adapter for FLUX by InstantX", (("ip_adapter.0.to_k_ip", "image_proj.proj.0"),), _PROMPTS),
    Other(
        "an IP-Adapter for FLUX", (("double_blocks.*.processor.ip_adapter_double_stream_k_proj",), ("ip_adapter.0.to_k_ip",)), _GIVE
    ),
    Other("FLUX.1 Redux, a picture prompt for FLUX", (("redux_up", "redux_down"),), _GIVE),
    Other("an IP-Adapter", (("ip_adapter.*.to_k_ip",), ("image_proj.proj",), ("image_proj.latents",)), _GIVE),
    Other("a textual inversion", (("emb_params",), ("clip_l", "clip_g"), ("string_to_param.*",)), _GIVE),
    Other(
        "a whole CLIP under OpenCLIP's names",
        (("visual.conv1", "token_embedding"),),
        "its text half is read from the file under transformers' names that is published beside it (model.safetensors)",
    ),
    Other("CLIP's image encoder", (("vision_model.embeddings.patch_embedding",), ("visual.conv1",)), _GIVE),
    Other(
        "TAESD, a small autoencoder, under its original names",
        (("1", "3.conv.0"),),
        "take it in diffusers' layout, and give that beside the model",
    ),
    Other("a deep-compression autoencoder under its original names", (("decoder.stages.*.op_list.*.main.conv.conv",),), _FOLDER),
    Other("a ControlNet-LLLite", (("lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.*",),), _CONTROLLED),
    Other("a picture enlarger (ESRGAN)", (("model.*.sub.*.RDB1.conv1.*",), ("body.*.rdb1.conv1",))),
    # video
    Other(
        "AnimateDiff",
        (("down_blocks.*.motion_modules.*.temporal_transformer.transformer_blocks.*.attention_blocks.*.pos_encoder.pe",),),
    ),
    Other("AnimateDiff", tuple((f"{x}motion_modules.*.{y}norm",) for x in _BLOCKS for y in ("", "temporal_transformer."))),
    Other("Stable Video Diffusion", (("input_blocks.*.*.time_stack.in_layers.*",),)),
    Other(
        "Wan",
        (
            ("head.modulation",),
            ("vace_blocks.*.after_proj",),
            ("motion_encoder.dec.direction",),
            ("decoder.middle.*.residual.*.gamma",),
        ),
    ),
    Other("HunyuanVideo", (("txt_in.individual_token_refiner.blocks.*.adaLN_modulation.*",),)),
    Other("LTX-Video", (("patchify_proj",), ("av_ca_a2v_gate_adaln_single.emb.timestep_embedder.linear_1",))),
    Other("Mochi", (("blocks.*.attn.qkv_x",),)),
    Other("CogVideoX", (("layers.*.attention.query_key_value",), ("mixins.final_layer.linear",))),
    Other("Cosmos", (("extra_pos_embedder.pos_emb_h",), ("blocks.*.self_attn.q_proj", "x_embedder.proj.*"))),
    # sound
    Other("Stable Audio", (("model.model.to_timestep_embed.*",), ("pretransform.model.decoder.layers.*.weight_g",))),
    Other("AudioLDM", (("clap.model.text_projection.*",), ("cond_stage_model.model.text_projection.*",))),
    # pictures
    Other("FLUX.2", (("single_stream_modulation.lin",),)),
    Other("FLUX.3", (("early_stream_modulations.image.lin",), ("ref_time_in.in_layer",))),
    Other("Chroma", (("distilled_guidance_layer.in_proj",),)),
    Other("Qwen-Image", (("transformer_blocks.*.img_mod.*", "txt_norm"), ("txt_in.text_norm",))),
    Other("Z-Image", (("layers.*.adaLN_modulation.0",),)),
    Other("Lumina", (("cap_embedder.0",), ("layers.*.attention.wq",))),
    Other("HiDream", (("double_stream_blocks.*.block.adaLN_modulation.*",),)),
    Other("AuraFlow", (("double_layers.*.attn.w1q",),)),
    Other("Stable Cascade", (("clip_txt_mapper",), ("down_blocks.*.*.channelwise.*",), ("effnet_mapper.*",))),
    Other("Kandinsky", (("text_transformer_blocks.*.self_attention.to_query",), ("input_blocks.*.*.encoder_kv",))),
    Other("DeepFloyd IF", (("encoder_pooling.*", "input_blocks.*.*"), ("aug_proj.*",))),
    Other("Hunyuan-DiT", (("blocks.*.default_modulation.*", "mlp_t5.*"),)),
    Other("Krea 2", (("txtfusion.projector",),)),
    Other("OmniGen", (("llm.layers.*.self_attn.qkv_proj",),)),
    Other("Stable unCLIP", (("embedder.model.visual.conv1",), ("noise_augmentor.data_mean",))),
    Other("PixArt under its original names", (("blocks.*.cross_attn.q_linear", "blocks.*.mlp.fc1"),), _FOLDER),
    Other("Sana under its original names", (("blocks.*.cross_attn.q_linear",),), _FOLDER),
    _OF_DIFFUSERS,
)
"""In order: the first that fits counts."""

_LORA = (
    ".lora_down.",
    ".lora_A.",
    ".lora_B.",
    ".lora.up.",
    ".hada_w1_a",
    ".lokr_w1",
    ".lora_up",
    "_lora.up.",
    "_lora.down.",
)

_PACKED = Other(
    "a model whose weights are packed (Nunchaku's SVDQuant, GPTQ, AWQ)", (), "take the same one in bfloat16, float8 or as GGUF"
)

_CLASSES = {
    "Allegro": "Allegro",
    "AltDiffusion": "AltDiffusion",
    "Animate": "AnimateDiff",
    "AudioLDM": "AudioLDM",
    "AuraFlow": "AuraFlow",
    "BlipDiffusion": "BLIP-Diffusion",
    "Bria": "Bria",
    "Chroma": "Chroma",
    "CogVideoX": "CogVideoX",
    "CogView": "CogView",
    "ConsisID": "ConsisID",
    "Cosmos": "Cosmos",
    "DiT": "DiT",
    "EasyAnimate": "EasyAnimate",
    "Flux2": "FLUX.2",
    "HiDream": "HiDream",
    "HunyuanDiT": "Hunyuan-DiT",
    "HunyuanVideo": "HunyuanVideo",
    "I2VGenXL": "I2VGen-XL",
    "IF": "DeepFloyd IF",
    "Kandinsky": "Kandinsky",
    "Kolors": "Kolors",
    "LDM": "latent diffusion before Stable Diffusion",
    "LTX": "LTX-Video",
    "Latte": "Latte",
    "Lumina": "Lumina",
    "Marigold": "Marigold, which measures pictures",
    "Mochi": "Mochi",
    "MotionAdapter": "AnimateDiff",
    "MusicLDM": "MusicLDM",
    "OmniGen": "OmniGen",
    "PIA": "PIA",
    "PaintByExample": "Paint by Example",
    "QwenImage": "Qwen-Image",
    "ShapE": "Shap-E",
    "StableAudio": "Stable Audio",
    "StableCascade": "Stable Cascade",
    "StableDiffusionDepth2Img": "Stable Diffusion 2 for depth maps",
    "StableDiffusionGLIGEN": "GLIGEN",
    "StableDiffusionImageVariation": "Stable Diffusion for variations of pictures",
    "StableDiffusionLDM3D": "LDM3D",
    "StableDiffusionLatentUpscale": "Stable Diffusion's latent upscaler",
    "StableDiffusionUpscale": "Stable Diffusion's x4 upscaler",
    "StableUnCLIP": "Stable unCLIP",
    "StableVideoDiffusion": "Stable Video Diffusion",
    "TextToVideo": "ModelScope's text to video",
    "TextToVideoZero": "Text2Video-Zero",
    "UNetMotion": "AnimateDiff",
    "UNetSpatioTemporal": "Stable Video Diffusion",
    "UnCLIP": "unCLIP",
    "VersatileDiffusion": "Versatile Diffusion",
    "VisualCloze": "VisualCloze",
    "Wan": "Wan",
    "Wuerstchen": "Würstchen",
    "ZImage": "Z-Image",
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
    bare = {_bare(name) for name in names}
    if any(name.endswith(".qweight") for name in bare):  # some with low-rank pairs beside, which are no LoRA
        return _PACKED
    if any(mark in f".{name}" for name in bare for mark in _LORA):
        return Other("a LoRA", (), _GIVE)
    modules = {name.removesuffix(".weight").removesuffix(".bias") for name in bare}
    alike: dict[str, list[str]] = {}
    for module in modules:
        alike.setdefault(star(module), []).append(module)
    for other in OTHERS:
        if any(all(_found(sign, alike) for sign in signs) for signs in other.signs):
            return other
    return None


def is_network_of_diffusers(names: Iterable[str]) -> bool:
    """Whether a file holds a network under diffusers' names, which do not say how it is built."""
    return other_family(names) is _OF_DIFFUSERS


def _found(sign: str, alike: Mapping[str, list[str]]) -> bool:
    """Whether one of the modules, sorted by their names with all numbers starred, is what a sign says."""
    pattern = re.compile(re.escape(sign).replace(r"\*", r"\d+"))
    return any(pattern.fullmatch(module) for module in alike.get(star(sign), ()))


def class_family(name: str) -> str | None:
    """The family of a class of diffusers' that is not run here, such as WanPipeline or WanTransformer3DModel."""
    found = [start for start in _CLASSES if name.startswith(start)]
    return _CLASSES[max(found, key=len)] if found else None


def refuse_other(names: Iterable[str], where: object) -> None:
    """InputError for a file of a family that is known but not run, and for a LoRA or the like."""
    if (other := other_family(names)) is not None:
        raise InputError(f"{where}: this is {other.name}; {other.instead}")


def refuse_unrun(names: Iterable[str], where: object) -> None:
    """InputError for a file that cannot be run, with a model or without: `refuse_other`, but for what is given with a model."""
    if (other := other_family(names)) is not None and other.instead != _GIVE:
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
    if not strange[nearest]:
        return InputError(
            f"{where}: holds only some of the tensors of {nearest} ({_some(bare)}): one file of several, or cut short"
        )
    return InputError(
        f"{where}: an unknown architecture; the nearest is {nearest}, which has no place for {len(strange[nearest])} of its "
        f"{len(bare)} tensors: {_some(strange[nearest])}"
    )


def refuse_pickle(path: Path) -> None:
    """InputError for a file that Python would run when it opens it, with the way to convert it, and for one that only points to
    another; by its name and its first bytes.
    """
    refuse_pointer(path)
    with open(path, "rb") as file:
        start = file.read(9)
    looks = start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    if start[8:9] == b"{" or not (looks or path.suffix.lower() in _PICKLES):  # a safetensors header begins so, whatever its length
        return
    told = converting(path, "d.get('state_dict', d)")
    raise InputError(f"{path}: a pickle, which may run anything when it is opened; take its safetensors, or convert it: {told}")


def converting(path: Path, tensors: str) -> str:
    """The command that writes a pickle's tensors as safetensors beside it. tensors: where they are, d being what is pickled."""
    new = path.with_suffix(".safetensors").name
    return (
        f"python -c \"import torch, safetensors.torch as s; d = torch.load('{path.name}', map_location='cpu', weights_only=True); "
        f"d = {tensors}; s.save_file({{k: v.detach().clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}}, '{new}')\""
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

"""What the networks of open checkpoints are told: the text encoders of each family, read and put together, and what they see.

Stable Diffusion 1, 2   CLIP                         SDXL     two CLIPs, sizes; its refiner one, sizes and an aesthetic score
                        and students of guided sampling (LCM) its scale
Stable Diffusion 3      two CLIPs and T5             FLUX.1   CLIP's summary, T5, in dev the guidance scale
PixArt                  T5, in alpha at 1024 sizes   Sana     Gemma 2 behind an instruction
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unnoise.checkpoints.foreign.belonging import is_known
from unnoise.checkpoints.foreign.folder import COMPLETE
from unnoise.checkpoints.foreign.memory import spared
from unnoise.checkpoints.foreign.parts import AsType, Foreign, Part
from unnoise.checkpoints.foreign.pieces import packed_rows
from unnoise.checkpoints.foreign.scheduler import OF_SIGMA, PIPELINES
from unnoise.checkpoints.foreign.single import open_single, unprojected
from unnoise.core.errors import InputError
from unnoise.modalities.image.controlled import ControlledConfig
from unnoise.modalities.image.editing import EditingConfig
from unnoise.modalities.image.in_context import InContextConfig
from unnoise.modalities.image.inpainting import CodedMaskConfig, WholeMaskConfig
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.modalities.words.emphasis import EmphaticConfig
from unnoise.modalities.words.frozen import CLIPTextConfig, T5TextConfig, answering, clip_class
from unnoise.modalities.words.gemma import read_gemma
from unnoise.modalities.words.joined import SilentConfig, ZeroedConfig, flux, pixart, sd3, sdxl
from unnoise.modalities.words.settings import WithGuidanceConfig, WithShapeConfig, WithSizesConfig
from unnoise.modalities.words.source import NoTokenizer, Opened, lend, open_encoder
from unnoise.networks.flux import FluxConfig
from unnoise.networks.pixart import PixArtConfig
from unnoise.networks.sana import SanaConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig

NetworkConfig = SDUNetConfig | SD3Config | FluxConfig | PixArtConfig | SanaConfig
SCORES = (6.0, 2.5)
"""The aesthetic score that SDXL's refiner is asked for, and the one it is led away from."""

ALPHA_WORDS = 120
"""Tokens that PixArt-alpha reads at most."""


class Told(NamedTuple):
    """What there is to know when a conditioner is chosen."""

    foreign: Foreign
    network: Any
    theirs: Mapping[str, Any]
    codec: LatentsConfig
    half: bool  # whether text encoders are held in bfloat16
    packed: bool = False  # whether T5's matrices stay as the file has them


def needed(foreign: Foreign, name: str) -> Part:
    """The part of that name. InputError where there is none."""
    if name not in foreign.parts:
        single = "give a file or folder that has it beside this one (--beside)"
        how = COMPLETE if Path(foreign.where).is_dir() else single
        raise InputError(f"{foreign.where}: no {name}, which a {foreign.pipeline} needs; {how}")
    return foreign.parts[name]


def skipping(config: EmphaticConfig, layer: int | None, told: Told) -> EmphaticConfig:
    """InputError where no CLIP tells more than a summary, which is of the last layer."""
    if layer is not None and not isinstance(told.network, SDUNetConfig | SD3Config):
        raise InputError(f"{told.foreign.where}: clip skip {layer}: the words of this model are not read by CLIP's layers")
    return config if layer is None else answering(config, layer)


def clip(told: Told, name: str, projected: bool = False) -> CLIPTextConfig:
    source, opened = _encoder(told, name, clip_class(projected), CLIP_TOKENIZER)
    width, variant = opened.network.config.hidden_size, told.foreign.parts[name].variant
    return CLIPTextConfig(source, opened.hash, width, projected=projected, half=told.half, variant=variant)


def t5(told: Told, name: str) -> T5TextConfig:
    source, opened = _encoder(told, name, "T5EncoderModel", T5_TOKENIZER)
    width, variant = opened.network.config.d_model, told.foreign.parts[name].variant
    return T5TextConfig(source, opened.hash, width, half=told.half, variant=variant)


def _encoder(told: Told, name: str, architecture: str, tokenizer: str) -> tuple[str, Opened]:
    """A text encoder and its source: its folder, or the file that it is part of. tokenizer: where no folder has one."""
    foreign = told.foreign
    part = needed(foreign, name)
    if Path(part.where).is_dir():
        # a model that is saved here finds it again from anywhere; links stay, as the tokenizer lies beside them
        source = str(Path(part.where).absolute())
        return source, open_encoder(source, architecture, told.half, part.variant)
    source, beside = f"{Path(part.where).absolute()}/{name}", foreign.tokenizers.get(name.replace("text_encoder", "tokenizer"))
    return source, lent(source, architecture, part, beside, tokenizer, told.half, told.packed)


def lent(source: str, architecture: str, part: Part, beside: Path | None, tokenizer: str, half: bool, keep: bool = False) -> Opened:
    """beside: its tokenizer's folder; None looks for one of its usual name where the file lies, and then takes `tokenizer`.
    keep: whether T5's matrices stay packed where they are."""
    file, _, name = source.rpartition("/")
    near = Path(file).parent / name.replace("text_encoder", "tokenizer")
    beside = near if beside is None and near.is_dir() else beside
    unpacked = part.where.lower().endswith(".gguf")  # all at once, T5-XXL would be 19 GB of float32
    tensors = AsType(part.tensors, torch.bfloat16) if half and unpacked else part.tensors
    packed = partial(packed_rows, part.tensors) if keep and spared(part) else None
    try:
        opened = lend(source, architecture, part.config, tensors, str(beside or tokenizer), half, packed)
    except NoTokenizer as e:
        needs = f"a folder {near.name} beside the file would do, or one with {near.name}/ in it (--beside FOLDER)"
        raise InputError(f"{file}: of its {name} only the tokenizer is missing: {e}; {needs}") from e
    if beside is None and part.config.get("hidden_act") == "gelu":  # OpenCLIP's pad with their first token
        opened.tokenizer.pad_token = "!"
    return opened


def lend_again(config: object) -> None:
    """Of a model that was saved: text encoders that lie in single files are read from there again. InputError for a broken file.

    Their tokenizers are those beside the files, or those that single files mean.
    """
    if isinstance(config, CLIPTextConfig | T5TextConfig) and (file := Path(config.source).parent).is_file():
        parts = open_single(file).parts
        part = parts.get(Path(config.source).name) or next((p for p in parts.values() if "model_type" in p.config), None)
        if part is None:
            raise InputError(f"{file}: the text encoder {Path(config.source).name} of this model lay in it, and lies there no more")
        if isinstance(config, T5TextConfig):
            lent(config.source, "T5EncoderModel", part, None, T5_TOKENIZER, config.half)
        else:
            part = unprojected(part) if config.projected and "text_projection.weight" not in part.tensors else part
            lent(config.source, clip_class(config.projected), part, None, CLIP_TOKENIZER, config.half)
    elif is_dataclass(config):
        for each in fields(config):
            lend_again(getattr(config, each.name))
    elif isinstance(config, tuple):
        for item in config:
            lend_again(item)


CLIP_TOKENIZER, T5_TOKENIZER = "openai/clip-vit-large-patch14", "google/t5-v1_1-xxl"
"""Whose tokenizers single files mean, which have none."""


def unet_told(told: Told) -> EmphaticConfig:
    """Stable Diffusion 1, 2, XL and XL's refiner, which lacks the first encoder; with a mask, or a picture that is to change."""
    foreign, dim = told.foreign, told.theirs.get("addition_time_embed_dim")
    inner: EmphaticConfig
    if not told.network.vector_dim:
        inner = clip(told, "text_encoder")
    else:
        second = clip(told, "text_encoder_2", projected=True)
        if "text_encoder" in foreign.parts:
            zeroed = sdxl(clip(told, "text_encoder"), second)
        else:
            zeroed = ZeroedConfig(replace(second, skip=2, normed=False))
        inner = zeroed if foreign.settings.get("force_zeros_for_empty_prompt", True) else zeroed.part
        scores = SCORES if foreign.settings.get("requires_aesthetics_score") else None
        inner = WithSizesConfig(inner, told.codec.height, told.codec.width, dim or 256, scores)
    inner = WithGuidanceConfig(inner) if told.network.guidance_dim else inner
    c = told.network.channels
    by_level = foreign.scheduler.get("_class_name") in OF_SIGMA  # their own folders do not say it of CosXL Edit
    editing = partial(EditingConfig, scaled=bool(foreign.settings.get("is_cosxl_edit", by_level)))
    return _with_picture(told, inner, {c + 1: CodedMaskConfig, c: editing})


def sd3_told(told: Told) -> EmphaticConfig:
    first, second = (clip(told, name, projected=True) for name in ("text_encoder", "text_encoder_2"))
    has = "text_encoder_3" in told.foreign.parts
    third = t5(told, "text_encoder_3") if has else SilentConfig(T5TextConfig.length, told.network.token_dim)
    return _with_picture(told, sd3(first, second, third), {told.network.channels + 1: CodedMaskConfig})


def flux_told(told: Told) -> EmphaticConfig:
    words = flux(clip(told, "text_encoder"), t5(told, "text_encoder_2"))
    inner = WithGuidanceConfig(words) if told.network.guidance else words
    c = told.network.channels
    if not told.network.picture_channels and _is_kontext(told.foreign):
        return InContextConfig(inner)
    return _with_picture(told, inner, {c + told.codec.autoencoder.factor**2: WholeMaskConfig, c: ControlledConfig})


def _is_kontext(foreign: Foreign) -> bool:
    """By the class of the pipeline, or the file's name: no tensor says so."""
    where = foreign.parts["transformer"].where
    return foreign.pipeline.startswith("FluxKontext") or (not Path(where).is_dir() and "kontext" in Path(where).name.lower())


def pixart_told(told: Told) -> EmphaticConfig:
    words = pixart(t5(told, "text_encoder"), ALPHA_WORDS if told.foreign.pipeline.startswith("PixArtAlpha") else 300)
    return WithShapeConfig(words, told.codec.height, told.codec.width) if told.network.sizes else words


def sana_told(told: Told) -> EmphaticConfig:
    part = needed(told.foreign, "text_encoder")
    source = str(Path(part.where).absolute()) if Path(part.where).is_dir() else part.where
    words = read_gemma(source, half=told.half, variant=part.variant)
    return words if told.network.guidance is None else WithGuidanceConfig(words)


Pictured = Callable[[EmphaticConfig], EmphaticConfig]


def _with_picture(told: Told, inner: EmphaticConfig, rooms: Mapping[int, Pictured]) -> EmphaticConfig:
    """With a picture, where the network has room for one. rooms: channels -> what lies there. InputError for other room, and for a
    pipeline that is not known: what is in that room no channel says, nor in which order."""
    there = told.network.picture_channels
    if there and not is_known(told.foreign.pipeline):
        known = f"known are those of diffusers for {', '.join(PIPELINES)}"
        raise InputError(f"{told.foreign.where}: a {told.foreign.pipeline} does unknown things with {there} channels more; {known}")
    if there and there not in rooms:
        known = f"0 (from words alone) and {', '.join(map(str, rooms))} (to fill in, change or follow pictures) are known here"
        beside = f"{there} channels beside the {told.network.channels} that it denoises"
        raise InputError(f"{told.foreign.where}: a network with {beside}; {known}")
    return rooms[there](inner) if there else inner

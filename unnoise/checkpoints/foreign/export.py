"""A model in the layout of the diffusers library, for its own pipelines to load: the way back from `building`.

Our tensors are cut into theirs by the tables that laid them together (`diffusers_names`). The scheduler's file is written only if
it is read here as the model's own process and sampler again.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unnoise.checkpoints.diffusers_names import FLUX_TABLE, SD3_TABLE, UNET_TABLE, Table, sources_of
from unnoise.checkpoints.foreign.building import Built
from unnoise.checkpoints.foreign.dit_names import PIXART_TABLE, pixart_theirs, sana_table, sana_theirs
from unnoise.checkpoints.foreign.folder import read_config
from unnoise.checkpoints.foreign.telling import ALPHA_WORDS
from unnoise.checkpoints.foreign.theirs import (
    Statistics,
    autoencoder_theirs,
    flux_theirs,
    scheduler_theirs,
    sd3_theirs,
    unet_theirs,
)
from unnoise.core.codec import within
from unnoise.core.errors import InputError
from unnoise.modalities.image.controlled import Controlled
from unnoise.modalities.image.editing import Editing
from unnoise.modalities.image.in_context import InContext
from unnoise.modalities.image.inpainting import Inpainting
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.words.frozen import CLIPText, Frozen, T5Text
from unnoise.modalities.words.settings import WithSizes
from unnoise.networks.flux import FluxConfig
from unnoise.networks.pixart import PixArtConfig
from unnoise.networks.sana import SanaConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig

VERSION = "0.36.0"
"""Of diffusers, whose layout this is."""


@dataclass(frozen=True)
class Target:
    """pipeline: their class. network: what it calls its network, with its configuration and table, and tensors that it stores but
    does not use. statistics: of the codes, that it reads. settings: beside the parts, in model_index.json."""

    pipeline: str
    network: str
    config: Mapping[str, Any]
    table: Table
    unused: Mapping[str, Tensor]
    statistics: Statistics
    settings: Mapping[str, Any]


def write_diffusers(built: Built, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write the folder, which must not exist yet. dtype: of all weights; None for their own.

    Raises InputError for a network, codec or scheduler that diffusers does not have, and, with nothing left behind, for weights
    beyond float16 and on a full disk.
    """
    refuse_taken(folder)
    target, codec = _target(built), built.codec
    if not isinstance(codec, Latents):
        raise InputError(f"a {type(codec).__name__} codec: pipelines of diffusers have an autoencoder there")
    vae, vae_table = autoencoder_theirs(codec, target.statistics)
    scheduler = scheduler_theirs(built.process, built.preconditioner, built.sampling, target.pipeline)
    encoders = _encoders(built, target)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        index: dict[str, Any] = {"_class_name": target.pipeline, "_diffusers_version": VERSION, **target.settings}
        network = {**exported(built.network.state_dict(), target.table), **target.unused}
        index[target.network] = _write_part(partial / target.network, target.config, _convolved(network, target.config), dtype)
        codes = _convolved(exported(codec.autoencoder.state_dict(), vae_table), vae)
        index["vae"] = _write_part(partial / "vae", vae, codes, dtype)
        _write_json(partial / "scheduler" / "scheduler_config.json", scheduler)
        index["scheduler"] = ["diffusers", scheduler["_class_name"]]
        for name, encoder in encoders.items():
            tokenizer = name.replace("text_encoder", "tokenizer")
            for part, value in ((name, encoder.opened.network), (tokenizer, encoder.opened.tokenizer)):
                value.save_pretrained(partial / part)
                index[part] = ["transformers", type(value).__name__]
            _rounded(partial / name, dtype)
        _write_json(partial / "model_index.json", index)
        partial.rename(folder)
    except (OSError, SafetensorError) as e:
        raise InputError(f"{folder}: the model could not be written: {e}") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


_CONVOLUTIONS = (".conv_inverted.weight", ".conv_point.weight")
"""Of 1 x 1 pixels: linear layers here."""
_PROJECTIONS = (".proj_in.weight", ".proj_out.weight")
"""Convolutions too, in U-Nets without linear projections: LoRAs for these come in that shape."""


def _convolved(theirs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """With the shapes of convolutions where theirs are."""
    ends = _CONVOLUTIONS if config.get("use_linear_projection", True) else _CONVOLUTIONS + _PROJECTIONS
    return {n: w[..., None, None] if n.endswith(ends) and w.ndim == 2 else w for n, w in theirs.items()}


def refuse_taken(folder: Path) -> None:
    """InputError for a folder that exists."""
    if folder.exists():
        raise InputError(f"{folder} exists: choose another name")


def exported(ours: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Our state dict under their names, cut where several of theirs lie one under another."""
    out: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        sources = sources_of(name, table)
        out |= zip(sources, tensor.split(_rows(sources, len(tensor))))
    return out


def _rows(sources: Sequence[str], rows: int) -> list[int]:
    """How many rows each of theirs has: as many, but for FLUX's single blocks, whose mlp is four times as wide."""
    shares = [4 if ".proj_mlp." in s else 1 for s in sources]
    return [rows // sum(shares) * share for share in shares]


def _target(built: Built) -> Target:
    config, codec = built.network_config, built.codec
    fills = within(built.conditioner, Inpainting) is not None
    nothing: dict[str, Tensor] = {}
    if isinstance(config, SDUNetConfig):
        means = "Inpaint" if fills else "InstructPix2Pix" if within(built.conditioner, Editing) else ""
        sizes, shape = within(built.conditioner, WithSizes), codec.shape()
        theirs = unet_theirs(config, (shape[1], shape[2]), sizes.config.dim if sizes else 0)
        if sizes is None:
            kind = "LatentConsistencyModelPipeline" if config.guidance_dim else f"StableDiffusion{means}Pipeline"
            left_out = {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
            return Target(kind, "unet", theirs, UNET_TABLE, nothing, "scale", left_out)
        scored = sizes.config.scores is not None
        kind = f"StableDiffusionXL{means or ('Img2Img' if scored else '')}Pipeline"
        zeroed = type(sizes.config.inner).__name__ == "ZeroedConfig"
        told = {"force_zeros_for_empty_prompt": zeroed} | ({"requires_aesthetics_score": True} if scored else {})
        told |= {"is_cosxl_edit": True} if (edits := within(built.conditioner, Editing)) and edits.config.scaled else {}
        return Target(kind, "unet", theirs, UNET_TABLE, nothing, "channels", told)
    if isinstance(config, SD3Config):
        return Target("StableDiffusion3Pipeline", "transformer", sd3_theirs(config), SD3_TABLE, _silent(config), "shift", {})
    if isinstance(config, FluxConfig):
        follows, looks = within(built.conditioner, Controlled), within(built.conditioner, InContext)
        means = "Fill" if fills else "Control" if follows else "Kontext" if looks else ""
        return Target(f"Flux{means}Pipeline", "transformer", flux_theirs(config), FLUX_TABLE, nothing, "shift", {})
    if isinstance(config, PixArtConfig):
        short = any(isinstance(m, T5Text) and m.config.length == ALPHA_WORDS for m in built.conditioner.modules())
        kind, shape = f"PixArt{'Alpha' if short else 'Sigma'}Pipeline", codec.shape()
        return Target(kind, "transformer", pixart_theirs(config, max(shape[1:])), PIXART_TABLE, nothing, "scale", {})
    if isinstance(config, SanaConfig):
        kind = "SanaPipeline" if config.guidance is None else "SanaSprintPipeline"
        theirs = sana_theirs(config, max(codec.shape()[1:]))
        return Target(kind, "transformer", theirs, sana_table(config), nothing, "scale", {})
    raise InputError(f"a {type(config).__name__.removesuffix('Config')} network is not written in diffusers' layout; {KNOWN} are")


KNOWN = "those of Stable Diffusion 1, 2, XL and 3, of FLUX.1, PixArt and Sana"


def _silent(config: SD3Config) -> dict[str, Tensor]:
    """The last block's queries of the words, whose answers nothing reads, but which their files hold."""
    last, width = f"transformer_blocks.{config.depth - 1}.attn", config.width
    out = {f"{last}.add_q_proj.weight": torch.zeros(width, width), f"{last}.add_q_proj.bias": torch.zeros(width)}
    return out | ({f"{last}.norm_added_q.weight": torch.ones(width // config.heads)} if config.norm_qk else {})


def _encoders(built: Built, target: Target) -> dict[str, Frozen]:
    """By their names; XL's refiner has the second alone. InputError for words that are read by something else."""
    frozen = [m for m in built.conditioner.modules() if isinstance(m, Frozen)]
    if isinstance(built.network_config, SanaConfig):
        frozen = frozen[:1]  # read with its instruction, and again without
    if deep := [m for m in frozen if isinstance(m, CLIPText) and m.skip != (1 if m.normed else 2)]:
        raise InputError(f"clip skip {deep[0].skip}: folders of diffusers do not say it; load the model without, and tell it there")
    if not frozen:
        raise InputError(f"a {type(built.conditioner).__name__} conditioner: a {target.pipeline} reads words by CLIP, T5 or Gemma")
    names = ["text_encoder", "text_encoder_2", "text_encoder_3"]
    return dict(zip(names[1:] if "requires_aesthetics_score" in target.settings else names, frozen))


def _write_part(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> list[str]:
    _write_json(folder / "config.json", {**config, "_diffusers_version": VERSION})
    plain = {name: _as(t.detach().cpu(), dtype, f"{folder.name}: {name}").contiguous() for name, t in tensors.items()}
    save_file(plain, str(folder / "diffusion_pytorch_model.safetensors"), metadata={"format": "pt"})
    return ["diffusers", str(config["_class_name"])]


def _rounded(folder: Path, dtype: torch.dtype | None) -> None:
    """A text encoder's folder, its weights of that type."""
    if dtype is None:
        return
    for file in folder.glob("*.safetensors"):
        tensors = {name: _as(t, dtype, f"{folder.name}: {name}") for name, t in load_file(file).items()}
        save_file(tensors, new := file.with_suffix(".new"), metadata={"format": "pt"})
        new.replace(file)  # which the tensors may be mapped from
    told = dict(read_config(folder / "config.json"))
    name = next((name for name in ("torch_dtype", "dtype") if name in told), "dtype")
    _write_json(folder / "config.json", {**told, name: str(dtype).removeprefix("torch.")})


def _as(tensor: Tensor, dtype: torch.dtype | None, what: str) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor
    if float((new := tensor.to(dtype)).abs().max()) == float("inf") and bool(tensor.isfinite().all()):
        raise InputError(f"{what}: has weights beyond {dtype}'s range; bfloat16 has float32's")
    return new


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

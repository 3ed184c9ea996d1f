"""Models in one file, safetensors or GGUF, with the original names, as Stability, Black Forest Labs, A1111, ComfyUI and
stable-diffusion.cpp write it.

What a file holds is found by its names: the network (below "model.diffusion_model.", "diffusion_model." or nothing), the
autoencoder ("first_stage_model.", "vae."), the text encoders ("cond_stage_model.", "conditioner.embedders.", "text_encoders.").
What it does not hold is not in the result; `together` joins files that make a model between them.

How a U-Net was trained its shapes do not say. In this order:

    a tensor v_pred, and ztsnr for zero terminal SNR; modelspec.prediction_type     where the file says it: merging tools carry
                                                                                    the tensors along, and write what they like
    edm_mean and edm_std (Playground v2.5), edm_vpred.sigma_max (CosXL)             at levels of noise, told as logarithms
    the spread of the last transformer's first bias is above 0.09: v                Stable Diffusion 2, as ComfyUI tells them apart
    noise                                                                           otherwise
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unnoise.checkpoints.foreign import original_configs as read
from unnoise.checkpoints.foreign.families import (
    CLIP_G,
    CLIP_H,
    CLIP_L,
    T5,
    ByLevel,
    Family,
    cosxl,
    family_of,
    playground,
    trained,
)
from unnoise.checkpoints.foreign.gguf import GGUFStore, refuse_text
from unnoise.checkpoints.foreign.parts import Foreign, Part
from unnoise.checkpoints.foreign.pieces import And, SafetensorsStore, Store
from unnoise.checkpoints.foreign.recognise import refuse_other, refuse_pickle, unknown
from unnoise.checkpoints.foreign.scheduler import OF_SIGMA
from unnoise.core.errors import InputError

V_SPREAD = 0.09
"""Of Stable Diffusion 2's last first bias: below it, the network was trained to predict noise."""


class Says(NamedTuple):
    """What a file says itself of how its U-Net was trained: to predict what, None where it does not say; down to zero signal; at
    levels of noise."""

    prediction: str | None = None
    zero_snr: bool = False
    by_level: ByLevel | None = None


class _Place(NamedTuple):
    """Where a part may lie: the beginning of its tensors' names, one of them that it always has, and how it is read."""

    prefix: str
    sign: str
    reading: read.Reading


_WORDS, _OPEN_WORDS = "text_model.embeddings.token_embedding.weight", "token_embedding.weight"
_T5, _T5_GGUF = "encoder.block.0.layer.0.SelfAttention.q.weight", "enc.blk.0.attn_q.weight"
_VAES = tuple(_Place(prefix, "decoder.up.0.block.0.conv1.weight", read.vae) for prefix in ("first_stage_model.", "vae.", ""))
_ENCODERS = (
    _Place("cond_stage_model.transformer.", _WORDS, read.clip_by_width),
    _Place("cond_stage_model.1.transformer.", _WORDS, read.clip_renamed),
    _Place("cond_stage_model.transformer.", _WORDS.removeprefix("text_model."), read.clip),
    _Place("cond_stage_model.model.", _OPEN_WORDS, read.open_clip_penultimate),
    _Place("conditioner.embedders.0.transformer.", _WORDS, read.clip),
    _Place("conditioner.embedders.0.model.", _OPEN_WORDS, read.open_clip),
    _Place("conditioner.embedders.1.model.", _OPEN_WORDS, read.open_clip),
    _Place("text_encoders.clip_l.transformer.", _WORDS, read.clip),
    _Place("text_encoders.clip_g.transformer.", _WORDS, read.clip_projected),
    _Place("text_encoders.t5xxl.transformer.", _T5, read.t5),
    _Place("text_encoders.t5xxl.transformer.", _T5_GGUF, read.t5_of_gguf),
    _Place("", _WORDS, read.clip_by_width),
    _Place("", _T5, read.t5),
    _Place("", _T5_GGUF, read.t5_of_gguf),
)
_ALONE = {"vae": "vae", CLIP_L: "text_encoder", CLIP_H: "text_encoder", CLIP_G: "text_encoder_2", T5: "text_encoder_3"}


def open_single(path: Path) -> Foreign:
    """What a file holds of a model. Where the network is not in it, pipeline is "" and the scheduler empty.

    Raises InputError for a file that is missing, truncated, a pickle, of a family that is not run here, or no model.
    """
    store = store_of(path)
    seen = "vision_model." if _WORDS in store.shapes else None  # of a whole CLIP the text half is read
    refuse_other([name for name in store.shapes if seen is None or not name.startswith(seen)], path)
    places = [place for group in (_VAES, _ENCODERS) for place in group if place.prefix + place.sign in store.shapes]
    beside = [read.part(store, p.prefix, p.reading, str(path)) for p in places]
    for prefix in read.NETWORK_PREFIXES:
        for _, sign, reading in read.NETWORKS:
            if prefix + sign in store.shapes:
                network = read.part(store, prefix, reading, str(path))
                return _model(network, beside, _trained(network, says(store)), str(path))
    if not beside:
        if isinstance(store, GGUFStore):
            refuse_text(store, path)
        raise unknown(store.shapes, path)
    return Foreign("", {_ALONE[_role(part)]: part for part in beside}, {}, {}, str(path))


def store_of(path: Path) -> GGUFStore | SafetensorsStore:
    """A file of tensors. InputError for one that is missing, broken, packed in a way that is not read, or a pickle."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix.lower() == ".gguf":
        return GGUFStore(path)
    refuse_pickle(path)
    return SafetensorsStore(path)


def together(first: Foreign, *others: Foreign) -> Foreign:
    """One model out of several files: a network, and the autoencoder and text encoders that were published beside it. Where the
    first has a network, others that have one too are whole models of its family, and give what it lacks without them.

    Raises InputError where no file or more than one holds a network, where two hold the same part, and for a whole model of another
    family, or that has nothing to give.
    """
    files = (first, *others)
    networks = [f for f in files if f.pipeline]
    if not networks or (networks[1:] and not first.pipeline):
        what = f"{len(networks)} of them hold" if networks else "none of them holds"
        raise InputError(f"{', '.join(f.where for f in files)}: {what} a network; one of them must")
    main, *whole = networks
    network = _network(main)
    family = _trained(network, says(store_of(Path(main.where))))
    beside = [part for f in files if f is main or not f.pipeline for part in f.parts.values() if part is not network]
    for other in whole:
        theirs = _trained(_network(other), says(store_of(Path(other.where))))
        if theirs.latents != family.latents:
            raise InputError(f"{other.where}: a whole {theirs.name}, where {main.where} is {family.name}: made for another model")
        roles = {"vae", *family.encoders} - {_role(part) for part in beside}
        more = [part for part in other.parts.values() if part is not _network(other) and _role(part) in roles]
        if not more:
            raise InputError(f"{other.where}: holds nothing that {Path(main.where).name} lacks, which has a network of its own")
        beside += more
    return _model(network, beside, family, main.where)


def _network(foreign: Foreign) -> Part:
    return foreign.parts.get("unet") or foreign.parts["transformer"]


def says(store: Store) -> Says:
    told = "v" if "v_pred" in store.shapes else store.metadata.get("modelspec.prediction_type")
    return Says(told, "ztsnr" in store.shapes, _by_level(store))


def _by_level(store: Store) -> ByLevel | None:
    """What Playground v2.5 and CosXL have in their files."""

    def numbers(name: str) -> list[float]:
        return [float(x) for x in store.rows(name, 0, (store.shapes[name] or (1,))[0]).flatten()]

    if "edm_mean" in store.shapes and "edm_std" in store.shapes:
        return playground(numbers("edm_mean"), numbers("edm_std"))
    if "edm_vpred.sigma_max" in store.shapes:
        low = numbers("edm_vpred.sigma_min")[0] if "edm_vpred.sigma_min" in store.shapes else 0.002
        return cosxl(low, numbers("edm_vpred.sigma_max")[0])
    return None


def retold(scheduler: Mapping[str, Any], network: Part, said: Says) -> Mapping[str, Any]:
    """A folder's scheduler, for a U-Net that takes the place of its own. InputError for a prediction that is not known, and for one
    that was trained on codes of its own beside others."""
    if network.kind != "UNet2DConditionModel":
        return scheduler
    if said.by_level is not None:
        if "latents_mean" in said.by_level.latents and scheduler.get("_class_name") not in OF_SIGMA:
            raise InputError(f"{network.where}: Playground v2.5, whose codes are not those of this folder: give its own (--beside)")
        return said.by_level.scheduler
    return trained(scheduler, None if said.prediction is None else _predicts_v(network, said.prediction), said.zero_snr)


def _trained(network: Part, said: Says) -> Family:
    return _family(network, _predicts_v(network, said.prediction), said.zero_snr, said.by_level)


def _family(network: Part, v_prediction: bool = False, zero_snr: bool = False, by_level: ByLevel | None = None) -> Family:
    try:
        return family_of(network.config, v_prediction, zero_snr, by_level)
    except InputError as e:
        raise InputError(f"{network.where}: {e}") from None


def _model(network: Part, beside: list[Part], family: Family, where: str) -> Foreign:
    """The parts under the names that the family has for them. InputError for a part that it does not have, or has twice."""
    network = replace(network, config={**network.config, "sample_size": family.side})
    parts = {"unet" if network.kind == "UNet2DConditionModel" else "transformer": network}
    for part in beside:
        role = _role(part)
        name = "vae" if role == "vae" else family.encoders.get(role)
        if name is None:
            raise InputError(f"{part.where}: holds a {role}, which {family.name} does not read: parts of two models mixed up")
        if name in parts:
            raise InputError(f"{part.where}: a second {role} beside that of {parts[name].where}")
        if role == "vae":
            part = replace(part, config={**part.config, **family.latents})
        elif role == CLIP_L and CLIP_G in family.encoders and T5 in family.encoders:
            part = unprojected(part)
        parts[name] = part
    return Foreign(family.pipeline, parts, family.scheduler, {}, where, family.settings)


def _role(part: Part) -> str:
    """What a part that is no network is for."""
    if part.kind == "AutoencoderKL":
        return "vae"
    if part.config["model_type"] == "t5":
        return T5
    if part.config["hidden_act"] == "quick_gelu":
        return CLIP_L
    return CLIP_G if "WithProjection" in part.kind else CLIP_H


def unprojected(part: Part) -> Part:
    """CLIP-L as SD3 reads it: with a projection, as its other CLIP has one, that changes nothing."""
    width = part.config["hidden_size"]
    config = {**part.config, "architectures": ["CLIPTextModelWithProjection"], "projection_dim": width}
    return replace(part, config=config, tensors=And(part.tensors, {"text_projection.weight": torch.eye(width)}))


def _predicts_v(network: Part, told: str | None = None) -> bool:
    """Whether a U-Net was trained to predict v: what its file has told, if it has. InputError for something else."""
    if network.kind != "UNet2DConditionModel":
        return False
    if told is not None:
        if told not in _PREDICTS_V:
            raise InputError(f"{network.where}: modelspec.prediction_type {told!r}: {', '.join(_PREDICTS_V)} are known")
        return _PREDICTS_V[told]
    if _family(network).name != "Stable Diffusion 2" or network.config["in_channels"] != 4:
        return False
    levels, blocks = len(network.config["block_out_channels"]), network.config["layers_per_block"]
    last = f"up_blocks.{levels - 1}.attentions.{blocks}.transformer_blocks.0.norm1.bias"
    return float(network.tensors[last].float().std(unbiased=False)) > V_SPREAD


_PREDICTS_V = {"epsilon": False, "v": True, "v_prediction": True}

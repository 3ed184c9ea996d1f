"""A diffusers folder: model_index.json names the parts, each in a folder of its own with its config.json and weights.

Weights come whole or in shards, in one precision or several ("variants"):

    diffusion_pytorch_model.safetensors                     model.fp16.safetensors
    diffusion_pytorch_model-00001-of-00002.safetensors      model.fp16-00001-of-00002.safetensors

Only safetensors are read. Pickles (.bin, .ckpt) may hold code that runs when they are opened.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unnoise.checkpoints.folder import read_json
from unnoise.checkpoints.foreign.defaults import DEFAULTS
from unnoise.checkpoints.foreign.parts import Foreign, MappedTensors, Part
from unnoise.core.errors import InputError
from unnoise.core.packed import refuse_packed

INDEX = "model_index.json"
NETWORKS = ("unet", "transformer")
"""What the network that denoises is called."""
PARTS = (*NETWORKS, "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")
"""What is read; other parts (a safety checker, a feature extractor) are not needed to sample."""
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
COMPLETE = "fetch the model again, with this part, or give a folder that has it (--beside FOLDER)"
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_NAME = re.compile(r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-(\d+)-of-(\d+))?(?:\.(\w+))?\.safetensors")


class Piece(NamedTuple):
    """What the name of a file of weights says. variant: "" for the plain one; shard of shards, 1 of 1 where it is whole."""

    name: str
    variant: str
    shard: int
    shards: int


def is_diffusers(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def read_diffusers(folder: Path, variant: str | None = None, without: Collection[str] = ()) -> Foreign:
    """All parts that the folder's model_index.json names, their weights unread.

    variant: such as "fp16", of the parts that have it, the plain weights of the others; None takes the plain weights, and where
    there are none those there are. without: parts whose weights are not needed, nor they themselves: what is there is told without
    weights. Raises InputError for a part that is missing, truncated or pickled, and for a variant that none has.
    """
    index = read_index(folder / INDEX)
    names = [name for name in PARTS if named(index, name) and (name not in without or (folder / name).is_dir())]
    having = [name for name in names if variant and has_variant(folder / name, variant)]
    parts = {
        name: _empty(folder / name) if name in without
        else read_part(folder / name, variant if name in having or not having else None)
        for name in names
    }  # fmt: skip
    words = [name for name in TOKENIZERS if name.replace("tokenizer", "text_encoder") not in without]
    tokenizers = {name: folder / name for name in words if named(index, name)}
    for name, place in tokenizers.items():
        if not place.is_dir():
            raise InputError(f"{place}: no such folder, though {INDEX} names a {name}; fetch the model again")
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json") if named(index, "scheduler") else {}
    settings = {k: v for k, v in index.items() if not isinstance(v, list) and not k.startswith("_")}
    return Foreign(str(index["_class_name"]), parts, scheduler, tokenizers, str(folder), settings)


def read_index(path: Path) -> Mapping[str, Any]:
    """What model_index.json says. InputError for a file that is none."""
    index = read_config(path)
    if not isinstance(index.get("_class_name"), str):
        raise InputError(f"{path}: names no pipeline (_class_name); it is no {INDEX} of diffusers")
    return index


def lacking(folder: Path) -> set[str]:
    """The parts that a model in a folder needs, or names, and that are not there; of a network that denoises either name."""
    index = read_index(folder / INDEX)
    names = {name for name in PARTS if named(index, name)}
    there = {name for name in names if (folder / name).is_dir()}
    return ({"vae", *names} if there & {*NETWORKS} else {"vae", *names, *NETWORKS}) - there


def named(index: Mapping[str, Any], name: str) -> bool:
    """Whether model_index.json has such a part: [library, class], both null for one that was left out."""
    entry = index.get(name)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] is not None


def read_config(path: Path) -> Mapping[str, Any]:
    """A JSON file that holds one object. InputError for a file that is missing, truncated or something else."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; a diffusers folder has one there: fetch the model again")
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no JSON object; it is no configuration of diffusers")
    return config


def read_part(folder: Path, variant: str | None = None, file: str | None = None) -> Part:
    """One network in its own folder. file: the one that holds its weights, where there are more. InputError as `read_diffusers`,
    and for weights that are quantised."""
    config = config_of(folder)
    files = [file] if file else _listed(folder, variant) or weights_of([f.name for f in folder.iterdir()], variant, str(folder))
    tensors = MappedTensors([folder / name for name in files])
    refuse_packed(config, tensors.dtypes, folder)
    return Part(config, tensors, str(folder), variant or "")


_LISTS = re.compile(r"(?:diffusion_pytorch_model|model)\.safetensors\.index(?:\.(\w+))?\.json")


def _lists(folder: Path) -> dict[str, Path]:
    """The indices of shards, by their variants, "" the plain one."""
    return {found[1] or "": f for f in folder.iterdir() if (found := _LISTS.fullmatch(f.name))}


def _listed(folder: Path, variant: str | None) -> list[str]:
    """The shards that an index names, which comes before whatever else lies there, but for the whole file of a text encoder, which
    transformers takes first; none without an index. InputError for one that is broken, or names a file that is not there."""
    path = _lists(folder).get(variant or "")
    if path is None or (path.name.startswith("model.") and (folder / _whole(variant)).is_file()):
        return []
    named = read_config(path).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(n, str) for n in named.values()):
        raise InputError(f"{path}: names no files of weights (weight_map); fetch the model again")
    files, there = sorted(set(named.values())), {f.name for f in folder.iterdir() if f.is_file()}
    if missing := [n for n in files if n not in there]:
        if any(p.variant == (variant or "") for n in there if (p := read_name(n))):
            return []  # an index that was left over
        raise InputError(f"{path}: names {missing[0][:80]!r}, which is not there; fetch the model again")
    return files


def _whole(variant: str | None) -> str:
    return f"model.{variant}.safetensors" if variant else "model.safetensors"


def has_variant(folder: Path, variant: str) -> bool:
    """Whether a part's folder holds such weights."""
    if not folder.is_dir():
        return False
    return variant in _lists(folder) or any(p.variant == variant for f in folder.iterdir() if (p := read_name(f.name)))


def _empty(folder: Path) -> Part:
    """What its config.json says alone."""
    return Part(config_of(folder), {}, str(folder))


def config_of(folder: Path) -> Mapping[str, Any]:
    """What the config.json of a network says, and what its class takes beside. InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, though {INDEX} names a {folder.name}; {COMPLETE}")
    said = read_config(folder / "config.json")
    return {**DEFAULTS.get(str(said.get("_class_name")), {}), **said}


def weights_of(names: Collection[str], variant: str | None, where: str) -> list[str]:
    """Of the files in a part's folder, those that hold its weights, all shards of one variant. InputError if there are none."""
    pieces = [piece for name in names if (piece := read_name(name))]
    if not pieces:
        if pickled := sorted(n for n in names if n.endswith(PICKLED)):
            raise InputError(f"{where}/{pickled[0]}: a pickle, which can run code when it is opened; {CONVERT}")
        raise InputError(f"{where}: holds no weights (*.safetensors); fetch the model again")
    variants = {p.variant for p in pieces}
    if variant and variant not in variants:
        raise InputError(
            f"{where}: no variant {variant!r} of its weights; there are {', '.join(v or 'plain' for v in sorted(variants))}"
        )
    chosen = variant or min(variants)  # the plain one is ""
    mine = [p for p in pieces if p.variant == chosen]
    whole = [p.name for p in mine if p.shards == 1]
    if whole:
        return whole[:1]
    shards = max(p.shards for p in mine)
    of = {p.shard: p.name for p in mine if p.shards == shards}
    if missing := sorted(set(range(1, shards + 1)) - set(of)):
        raise InputError(f"{where}: file {missing[0]} of the {shards} that its weights lie in is missing; fetch the model again")
    return [of[i] for i in sorted(of)]


CONVERT = (
    "safetensors are read instead: on a machine where you trust it, "
    "diffusers.DiffusionPipeline.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER) writes them"
)


def read_name(name: str) -> Piece | None:
    """What the name of a file says, if it is one of weights."""
    if not (found := _NAME.fullmatch(name)):
        return None
    before, shard, shards, behind = found.groups()
    return Piece(name, before or behind or "", int(shard or 1), int(shards or 1))


def licence(folder: Path) -> str:
    """What the head of its README.md (YAML between two lines of ---) calls the licence; "not stated" without one."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "not stated"
    head = text.split("---")[1] if text.startswith("---") else ""
    said = dict(line.split(":", 1) for line in head.splitlines() if line.startswith("license") and ":" in line)
    return (said.get("license_name") or said.get("license") or "not stated").strip()

"""An open checkpoint, wherever it lies: a diffusers folder, a single file, or either by its name on the hub.

What lies beside it fills in what a single file lacks, and takes the place of what a folder has: a student's U-Net, a transformer
that was trained further, another autoencoder.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from unnoise.checkpoints.foreign.defaults import DEFAULTS
from unnoise.checkpoints.foreign.folder import (
    NETWORKS,
    PARTS,
    TOKENIZERS,
    config_of,
    has_variant,
    is_diffusers,
    lacking,
    read_config,
    read_diffusers,
    read_part,
)
from unnoise.checkpoints.foreign.hub import at_hand, fetch, fetch_part, is_hub_file, is_hub_name
from unnoise.checkpoints.foreign.parts import Foreign, Part
from unnoise.checkpoints.foreign.pieces import as_they_are
from unnoise.checkpoints.foreign.recognise import is_network_of_diffusers
from unnoise.checkpoints.foreign.single import Says, open_single, retold, says, store_of, together
from unnoise.core.errors import InputError

_VAE = "vae"
_TAESD = "decoder.layers.0.weight"
_BUILT = "give its folder, or the file with its config.json beside it"
_UNSAID = ("scaling_factor", "shift_factor", "latents_mean", "latents_std", "sample_size")
"""What tensors do not say: of an autoencoder's codes, and of the size of pictures."""


def open_foreign(source: str | Path, variant: str | None = None, beside: Sequence[str | Path] = ()) -> Foreign | None:
    """The checkpoint at a path, or of a name on the hub (OWNER/NAME, OWNER/NAME/FILE); None for a path that is none, or no
    diffusers folder.

    variant: which of its weights, such as "fp16". beside: for a single file, files and folders that hold what it lacks: text
    encoders, their tokenizers, an autoencoder; a whole model's file that has these; or such a network's name on the hub. For a
    folder, networks in place of its own, or that it lacks: a U-Net or transformer, an autoencoder, each a file, a folder with its
    config.json, or a name on the hub; the folder's own weights of these are not read, nor fetched. So for a single file with those
    under diffusers' names. And folders of parts, in folders of the parts' names: one network, or what is lacking.
    Raises InputError for what is missing, truncated, pickled or not known here.
    """
    if is_hub_file(str(source)) and not beside:
        _refuse_variant(variant, str(source))  # before it is fetched
    path = at_hand(source)
    if path.is_file():
        return _whole(path, [Path(b) for b in beside], variant)
    from_hub = not path.is_dir() and is_hub_name(str(source))
    if not from_hub and not is_diffusers(path):
        _refuse_alone(path)
        return None
    given = [_here(Path(b)) for b in beside]
    several = [p for p in given if p.is_dir() and not (p / "config.json").is_file()]
    others = [_alone(p, variant) for p in given if p not in several]
    names = [name for other in others for name in other.names]
    if len(names) != len({*names}):
        raise InputError(f"{' and '.join(o.where for o in others)}: two of them for one place; give one")
    if from_hub:
        path = fetch(str(source), variant, names)
    lacks = lacking(path) - {*names}
    more = {name: part for folder in several for name, part in _parts_of(folder, lacks, path, variant).items()}
    beside_it = any(part.variant for part in (*more.values(), *(other.part for other in others)))
    own = variant if not beside_it or any(has_variant(path / name, str(variant)) for name in PARTS) else None
    foreign = read_diffusers(path, own, [*names, *more])
    scheduler = foreign.scheduler
    parts = {**foreign.parts, **more}
    for other in others:
        name, parts[name] = _in_place(foreign, other)
        scheduler = retold(scheduler, parts[name], other.says)
    return replace(foreign, parts=parts, scheduler=scheduler)


def _parts_of(folder: Path, lacks: Collection[str], model: Path, variant: str | None) -> Mapping[str, Part]:
    """What a folder of parts has of those that a model's folder lacks. InputError for nothing."""
    there = [name for name in PARTS if (folder / name / "config.json").is_file()]
    if not there:
        raise InputError(f"{folder}: no config.json in it or in a folder of a part's name, such as unet or transformer")
    if found := [name for name in there if name in lacks]:
        return {name: _of_variant(folder / name, variant) for name in found}
    raise InputError(f"{folder}: holds nothing that {model} lacks; what takes a part's place is given alone: {folder / there[0]}")


def _refuse_alone(folder: Path) -> None:
    """InputError for the folder of one network of diffusers'."""
    if (config := folder / "config.json").is_file() and (kind := read_config(config).get("_class_name")):
        an = "an" if str(kind)[0] in "AEIOU" else "a"
        raise InputError(
            f"{folder}: holds {an} {kind} alone, of diffusers; give it with the model it belongs to (--beside, --control)"
        )


class _Alone(NamedTuple):
    """One network. names: of the parts whose place it may take. part: its configuration is empty for a file under diffusers' names,
    which does not say how it is built: as the one whose place it takes. told: whether a config.json says what tensors do not.
    says: what its file does of how it was trained."""

    names: tuple[str, ...]
    part: Part
    where: str
    told: bool = True
    says: Says = Says()


def _of_variant(folder: Path, variant: str | None) -> Part:
    """Its plain weights where it has none of the variant."""
    return read_part(folder, variant if variant and has_variant(folder, variant) else None)


def _alone(path: Path, variant: str | None) -> _Alone:
    """variant: of a folder that has it. InputError for what is no network that may take another's place."""
    if path.is_dir():
        part = _of_variant(path, variant)
        return _Alone(_places(part.kind, str(path)), part, str(path))
    store = store_of(path)
    tensors, said = as_they_are(store), says(store)
    if is_network_of_diffusers(tensors):
        if (beside := path.parent / "config.json").is_file() and "_class_name" in read_config(beside):
            part = Part(config_of(path.parent), tensors, str(path.parent))
            return _Alone(_places(part.kind, str(path)), part, str(path), says=said)
        if _TAESD in tensors:
            kind = "AutoencoderTiny"
            config = {**DEFAULTS[kind], "_class_name": kind, "latent_channels": store.shapes[_TAESD][1]}
            return _Alone((_VAE,), Part(config, tensors, str(path)), str(path))
        names = (_VAE,) if "decoder.conv_in.weight" in tensors else NETWORKS
        return _Alone(names, Part({}, tensors, str(path)), str(path), says=said)
    parts = open_single(path).parts
    if len(parts) > 1:
        raise InputError(f"{path}: holds more than one network ({', '.join(parts)}): give it as the model, not beside another")
    (part,) = parts.values()
    return _Alone(_places(part.kind, str(path)), part, str(path), told=False, says=said)


def _here(path: Path) -> Path:
    """A file or folder as it is, of a name on the hub what was fetched, and of a folder that has the folder of a network or an
    autoencoder in it, and of no other part, that one. InputError for what is none."""
    path = at_hand(path)
    if not path.exists() and is_hub_name(str(path)):
        path = fetch_part(str(path), NETWORKS)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir() and not (path / "config.json").is_file():
        inside = [path / name for name in (*PARTS, *TOKENIZERS) if (path / name).is_dir()]
        if len(inside) == 1 and inside[0].name in (*NETWORKS, _VAE):
            return inside[0]
    return path


def _places(kind: str, where: str) -> tuple[str, ...]:
    if kind.startswith("Autoencoder"):
        return (_VAE,)
    if kind.startswith("UNet") or "Transformer" in kind:
        return NETWORKS
    raise InputError(f"{where}: a {kind}; networks that denoise and autoencoders may take the place of a folder's own")


def _in_place(foreign: Foreign, other: _Alone) -> tuple[str, Part]:
    """The name of the part whose place it takes, or that was lacking, and what is there from now on. InputError for one made for
    another model."""
    name = next((n for n in other.names if n in foreign.parts), None)
    if name is None:
        if not foreign.pipeline:
            raise InputError(f"{other.where}: {foreign.where} has no {' or '.join(other.names)} whose place it could take")
        if not other.part.config or (_VAE in other.names and not other.told):
            what, model = "its codes are scaled" if other.part.config else "it is built", Path(foreign.where).name
            raise InputError(f"{other.where}: does not say how {what}, and {model} has none like it: {_BUILT}")
        return (_VAE if _VAE in other.names else "unet" if other.part.kind.startswith("UNet") else "transformer"), other.part
    own = foreign.parts[name]
    if not other.part.config:
        return name, replace(other.part, config=own.config)
    if name in NETWORKS and other.part.kind != own.kind:
        raise InputError(f"{other.where}: a {other.part.kind}, where {foreign.where} has a {own.kind}: made for another model")
    unsaid = {} if other.told else {k: own.config[k] for k in _UNSAID if k in own.config}
    return name, replace(other.part, config={**other.part.config, **unsaid})


def _whole(file: Path, beside: Sequence[Path], variant: str | None) -> Foreign:
    """A single file with what lies beside it. Folders of parts fill in what no file holds; a network alone takes the place of the
    file's own, so an autoencoder that lies beside is the one that is used. InputError for what is of no use."""
    beside = [_here(p) for p in beside]
    folders = [p for p in beside if p.is_dir()]
    if not folders:
        _refuse_variant(variant, str(file))
    elif variant and not any(has_variant(place, variant) for p in folders for place in (p, *(p / n for n in PARTS))):
        raise InputError(f"{folders[0]}: no variant {variant!r} of any weights")
    foreign = open_single(file)
    instead = [p for p in beside if _is_instead(p, foreign)]
    if files := [open_single(p) for p in beside if p.is_file() and p not in instead]:
        foreign = together(foreign, *files)
    parts, tokenizers = dict(foreign.parts), dict(foreign.tokenizers)
    for folder in (p for p in beside if p.is_dir() and p not in instead):
        new = {n: folder / n for n in PARTS if n not in (*NETWORKS, *parts) and (folder / n).is_dir()}
        words = {n: folder / n for n in TOKENIZERS if (folder / n).is_dir()}
        if not new and not words:
            raise InputError(
                f"{folder}: holds nothing that {file.name} lacks: no tokenizer, and no such part in a folder of its name"
            )
        parts |= {n: _of_variant(place, variant) for n, place in new.items()}
        tokenizers = words | tokenizers
    foreign, scheduler = replace(foreign, parts=parts, tokenizers=tokenizers), foreign.scheduler
    for other in (_alone(p, variant) for p in instead):
        name, parts[name] = _in_place(foreign, other)
        scheduler = retold(scheduler, parts[name], other.says)
    return replace(foreign, parts=parts, scheduler=scheduler)


def _refuse_variant(variant: str | None, file: str) -> None:
    if variant:
        raise InputError(f"{file}: --variant {variant}: it chooses among the files of a folder, and this is a file; leave it out")


def _is_instead(path: Path, foreign: Foreign) -> bool:
    """Whether it is a network alone, in a folder or under diffusers' names, or an autoencoder's file where the other has one."""
    if path.is_dir():
        return (path / "config.json").is_file()
    if is_network_of_diffusers(store_of(path).shapes):
        return True
    return _VAE in foreign.parts and list(open_single(path).parts) == [_VAE]

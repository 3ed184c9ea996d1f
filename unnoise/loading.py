"""A model from where it lies: a model folder, a training run, a model that ships, an open checkpoint; with LoRAs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from unnoise.checkpoints.allowed import ALLOWED
from unnoise.checkpoints.card import About
from unnoise.checkpoints.config import allow
from unnoise.checkpoints.folder import load_weights, read_folder
from unnoise.checkpoints.foreign.building import Built, build
from unnoise.checkpoints.foreign.control_lora import follows_pictures, with_room
from unnoise.checkpoints.foreign.folder import INDEX, licence
from unnoise.checkpoints.foreign.hub import SINGLE, refuse_address
from unnoise.checkpoints.foreign.lora import Weight, low_rank, network_of
from unnoise.checkpoints.foreign.memory import Wanted
from unnoise.checkpoints.foreign.opening import open_foreign
from unnoise.checkpoints.foreign.parts import Foreign
from unnoise.checkpoints.foreign.telling import lend_again
from unnoise.checkpoints.kinds import MODEL, kind_at
from unnoise.checkpoints.shipped import FOLDER, shipped, shipped_folder
from unnoise.control.sampling import Sampling
from unnoise.core.errors import InputError
from unnoise.modalities.image.controlled import ControlledConfig
from unnoise.modalities.words.emphasis import Emphatic, EmphaticConfig
from unnoise.modalities.words.source import let_go
from unnoise.model import DiffusionModel, ModelConfig
from unnoise.networks.flux import Flux
from unnoise.networks.packed import has_packed

MODEL_CLASSES = {**ALLOWED, **allow(ModelConfig, Sampling, About), "model.Sampling": Sampling, "model.About": About}
"""All that a model's config.json may name; two classes by their former names too."""


def load(
    source: str | Path, dtype: torch.dtype | None = None, variant: str | None = None, beside: Sequence[str | Path] = (),
    wanted: Wanted = Wanted(), packed: bool = False, clip_skip: int | None = None,
) -> DiffusionModel:  # fmt: skip
    """The model in a model folder or a training run's, one that ships by its name (see `shipped`), or an open checkpoint: a folder
    of diffusers, a single file, or a name on the hub (OWNER/NAME, OWNER/NAME/FILE), of which what is needed is fetched once.

    The rest concerns open checkpoints. dtype: float32 or bfloat16, of the weights, text encoders' too; None for float32.
    variant, beside: see `open_foreign`. wanted: what it will be asked for, which must fit into memory. packed: the weights of GGUF
    and float8 files stay as they are, and are unpacked at every call (`networks.packed`). clip_skip: the hidden layer, from the
    end, that CLIP answers by (Stable Diffusion; 1 is usual, of XL and 3 it is 2). Raises InputError for what is not a model, was
    truncated or edited, comes from a later version, is of a family that is not run here, is not to be had from the hub, or will not
    fit.
    """
    try:
        return _opened(source, dtype, variant, beside, wanted, packed, clip_skip)
    finally:
        let_go()


def outline(source: str | Path) -> DiffusionModel:
    """As `load`, to be described and not sampled: an open checkpoint's text encoders and tokenizers are not read, and need not be
    there."""
    try:
        return _opened(source, None, None, (), Wanted(), packed=False, clip_skip=None, words=False)
    finally:
        let_go()


def _opened(
    source: str | Path, dtype: torch.dtype | None, variant: str | None, beside: Sequence[str | Path], wanted: Wanted, packed: bool,
    clip_skip: int | None, words: bool = True,
) -> DiffusionModel:  # fmt: skip
    """See `load`."""
    folder, own = Path(source), shipped_folder(str(source))
    if own is not None and not _holds_a_model(folder):  # a folder of samples or of data may be called so too
        folder = own
    if foreign := open_foreign(folder, variant, beside):
        built = build(foreign, dtype or torch.float32, wanted, packed, clip_skip, words)
        model = _imported(foreign, built, [Path(b).name for b in beside])
    elif folder.is_dir():
        asked = {"--beside": beside, "--variant": variant, "--packed": packed, "--clip-skip": clip_skip is not None}
        if given := next((name for name, value in asked.items() if value), None):
            raise InputError(f"{folder}: a model of unnoise's own, whole and unpacked; {given} is for open checkpoints")
        model = _read(folder)
    else:
        what = "file" if folder.suffix.lower() in SINGLE else "folder"
        refuse_address(str(source))
        raise InputError(
            f"{folder}: no such {what}; a model is a folder with config.json and model.safetensors, a run has one in model/, and "
            f"these ship with unnoise: {', '.join(shipped())}"
        )
    model.parts.eval()
    model.path = folder.name if folder.parent == FOLDER else str(source)
    return model


RUN = "run.json"
"""What a training run's folder has from its beginning."""


def _holds_a_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "model/config.json", INDEX, RUN))


def _read(folder: Path) -> DiffusionModel:
    if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
        folder = folder / "model"
    if (kind := kind_at(folder)) not in (None, MODEL):
        assert kind is not None
        raise InputError(f"{folder}: no diffusion model, but {kind.said(folder)}")
    config, tensors, _ = read_folder(folder, ModelConfig, MODEL_CLASSES)
    lend_again(config.conditioner)
    model: DiffusionModel = config.build()
    load_weights(model.parts, tensors, folder / "model.safetensors")
    return model


def _imported(foreign: Foreign, built: Built, beside: Sequence[str]) -> DiffusionModel:
    """An open checkpoint on our own networks. beside: the names of what takes the place of a folder's own."""
    where = Path(foreign.where)
    name = where.stem if where.is_file() else where.name
    other = beside if where.is_dir() else []
    about = About(
        " with ".join([name, *other]),
        f"not stated; an open checkpoint of {foreign.pipeline}",
        "not stated" if other else licence(where),
    )
    config = ModelConfig(
        built.codec.config, built.conditioner_config, built.network_config, built.process, built.preconditioner,
        built.sampling, about,
    )  # fmt: skip
    return DiffusionModel(config, built.codec, built.conditioner, built.network)


def with_loras(model: DiffusionModel, files: Mapping[str | Path, Weight]) -> DiffusionModel:
    """The model under these LoRA files, see `low_rank`. Where one of them follows pictures (FLUX.1 Canny and Depth as LoRAs), this
    is another model, with room for one (`controlled`) and else the same weights and text encoders: it takes the place of the one
    that was given, which is not to be used any more.

    InputError as `low_rank`, and for several that follow pictures.
    """
    if not isinstance(files, Mapping):
        raise InputError(f"{files!r}: LoRA files with their weights are meant, {{'style.safetensors': 0.7}}")
    network = network_of(model.denoiser)
    if has_packed(network) and any(follows_pictures(network, Path(path)) for path in files):
        raise InputError("a LoRA that follows pictures makes the network wider: load its weights unpacked (without --packed)")
    following = [str(path) for path in files if follows_pictures(network, Path(path))]
    if len(following) > 1:
        raise InputError(f"{' and '.join(following)}: each follows pictures of its own; give one of them")
    if following and isinstance(network, Flux) and not network.config.picture_channels:
        model = _roomy(model, network)
    low_rank(model, files)
    return model


def _roomy(model: DiffusionModel, network: Flux) -> DiffusionModel:
    """For pictures to be followed. It draws as the model does, as long as nothing makes it look at them."""
    words, config = model.conditioner, model.config.conditioner
    if not isinstance(words, Emphatic) or not isinstance(config, EmphaticConfig):
        raise InputError(f"a LoRA that follows pictures is for models that are told prompts, not by a {type(words).__name__}")
    wider, told = with_room(network), ControlledConfig(config)
    conditioner = told.build()
    conditioner.inner = words  # with those that it has learnt
    out = DiffusionModel(replace(model.config, conditioner=told, network=wider.config), model.codec, conditioner, wider)
    out.path, out.attachments = model.path, model.attachments
    return out

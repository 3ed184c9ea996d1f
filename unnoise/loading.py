"""A model from where it lies: a model folder, a training run, a model that ships, an open checkpoint of another library."""

from collections.abc import Sequence
from pathlib import Path

import torch

from unnoise.checkpoints.allowed import ALLOWED
from unnoise.checkpoints.card import About
from unnoise.checkpoints.config import allow
from unnoise.checkpoints.folder import load_weights, read_folder
from unnoise.checkpoints.foreign.building import build
from unnoise.checkpoints.foreign.folder import licence
from unnoise.checkpoints.foreign.opening import open_foreign
from unnoise.checkpoints.foreign.parts import Foreign
from unnoise.checkpoints.shipped import shipped, shipped_folder
from unnoise.control.sampling import Sampling
from unnoise.core.errors import InputError
from unnoise.model import DiffusionModel, ModelConfig

MODEL_CLASSES = {**ALLOWED, **allow(ModelConfig, Sampling, About), "model.Sampling": Sampling, "model.About": About}
"""All that a model's config.json may name; two classes by their former names too."""


def load(
    source: str | Path, dtype: torch.dtype | None = None, variant: str | None = None, beside: Sequence[str | Path] = ()
) -> DiffusionModel:
    """The model in a model folder or a training run's, one that ships by its name (see `shipped`), or an open checkpoint: a folder
    of diffusers, a single file, or a name on the hub (OWNER/NAME), of which what is needed is fetched once.

    The rest concerns open checkpoints. dtype: float32 or bfloat16, of the weights, text encoders' too; None for float32.
    variant, beside: see `open_foreign`. Raises InputError for what is not a model, was truncated or edited, comes from a later
    version, is of a family that is not run here, or is not to be had from the hub.
    """
    folder = Path(source)
    if not folder.exists():
        folder = shipped_folder(str(source)) or folder
    if foreign := open_foreign(folder, variant, beside):
        model = _imported(foreign, dtype or torch.float32)
    elif folder.is_dir():
        model = _read(folder)
    else:
        raise InputError(
            f"{folder}: no such folder; a model is a folder with config.json and model.safetensors, a run has one in model/, and "
            f"these ship with unnoise: {', '.join(shipped())}"
        )
    model.parts.eval()
    model.path = str(source)
    return model


def _read(folder: Path) -> DiffusionModel:
    if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
        folder = folder / "model"
    config, tensors, _ = read_folder(folder, ModelConfig, MODEL_CLASSES)
    model: DiffusionModel = config.build()
    load_weights(model.parts, tensors, folder / "model.safetensors")
    return model


def _imported(foreign: Foreign, dtype: torch.dtype) -> DiffusionModel:
    """An open checkpoint on our own networks."""
    built, where = build(foreign, dtype), Path(foreign.where)
    about = About(
        where.stem if where.is_file() else where.name, f"not stated; an open checkpoint of {foreign.pipeline}", licence(where)
    )
    config = ModelConfig(
        built.codec.config, built.conditioner_config, built.network_config, built.process, built.preconditioner,
        built.sampling, about,
    )  # fmt: skip
    return DiffusionModel(config, built.codec, built.conditioner, built.network)

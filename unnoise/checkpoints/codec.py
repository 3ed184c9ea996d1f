"""A trained codec of latents on its own: a folder like a model's, from which latent models are trained."""

from pathlib import Path

from unnoise.checkpoints.allowed import ALLOWED
from unnoise.checkpoints.config import class_name
from unnoise.checkpoints.folder import load_weights, read_folder, read_json, write_folder
from unnoise.core.errors import InputError
from unnoise.modalities.image.latents import Latents, LatentsConfig


def save_codec(codec: Latents, folder: Path, card: str) -> str:
    """Write the folder, with this model card; returns the hash of the file of tensors. InputError on a full disk, nothing lost."""
    return write_folder(folder, codec.config, codec.state_dict(), card)


def load_codec(folder: str | Path) -> Latents:
    """The codec in its folder, or that of a finished run of the recipe `autoencoder`; ready for use.

    Raises InputError for what is none, was truncated or edited, or comes from a later version.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; `unnoise train DATA --recipe autoencoder --out {folder}` makes a codec")
    if not (folder / "config.json").exists() and (folder / "model" / "config.json").exists():
        folder = folder / "model"
    document = read_json(folder / "config.json")
    kind = document["model"].get("class") if isinstance(document, dict) and isinstance(document.get("model"), dict) else None
    if kind != class_name(LatentsConfig):
        raise InputError(f"{folder}: a {kind or 'folder of something else'}, and no codec; the recipe autoencoder makes codecs")
    config, tensors, _ = read_folder(folder, LatentsConfig, ALLOWED)
    codec: Latents = config.build()
    load_weights(codec, tensors, folder / "model.safetensors")
    return codec.eval()

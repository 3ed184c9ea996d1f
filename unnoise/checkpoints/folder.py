"""A saved model: a folder with `model.safetensors`, `config.json` (typed, versioned, validated) and `README.md` (the model card).

The configuration carries the hash of the tensors, so a truncated or edited file is noticed before it is used. The folder is
written beside its final name and renamed: there is never half a model under the name that was asked for.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unnoise.checkpoints.card import SHEET
from unnoise.checkpoints.config import decode, encode
from unnoise.core.errors import InputError
from unnoise.core.hashing import tensors_hash as tensors_hash

VERSION = 1


def file_hash(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def write_folder(folder: Path, config: object, tensors: Mapping[str, Tensor], card: str, sheet: bytes | None = None) -> str:
    """Write a model folder, replacing one of that name only once the new one is whole. Returns the hash of the tensors.

    sheet: a PNG that the card shows. Raises InputError, with nothing lost, when the disk is full or the place cannot be written.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, str(partial / "model.safetensors"))
        digest = file_hash(partial / "model.safetensors")
        document = {"unnoise": VERSION, "sha256": digest, "model": encode(config)}
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        for name, said in (("config.json", text), ("README.md", card)):  # paths may hold what is not UTF-8
            (partial / name).write_text(said, encoding="utf-8", errors="backslashreplace")
        if sheet is not None:
            (partial / SHEET).write_bytes(sheet)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except (OSError, SafetensorError) as e:
        if old.exists() and not folder.exists():
            old.rename(folder)
        full = getattr(e, "errno", None) == errno.ENOSPC or "No space left" in str(e)
        raise InputError(f"{folder}: the model could not be saved: {'the disk is full' if full else e}") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return digest


def read_json(path: Path) -> Any:
    """What a JSON file says. InputError for one that is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a model is a folder with config.json and model.safetensors") from None
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: not readable as JSON ({e}); the file was truncated or edited") from e


def read_folder(folder: Path, kind: type, allowed: Mapping[str, type]) -> tuple[Any, dict[str, Tensor], str]:
    """(configuration of type `kind`, tensors, their hash) of a model folder.

    Raises InputError for a folder that is not a model, a file that is truncated or edited, or one of a later version.
    """
    document = read_json(folder / "config.json")
    if not isinstance(document, dict) or "unnoise" not in document or "model" not in document:
        raise InputError(f"{folder / 'config.json'}: not the configuration of an unnoise model")
    version = document["unnoise"]
    if not isinstance(version, int) or version > VERSION:
        raise InputError(
            f"{folder / 'config.json'}: format version {version!r}; this unnoise reads up to {VERSION}: upgrade unnoise"
        )
    config = decode(kind, document["model"], allowed, f"{folder / 'config.json'}: model")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{weights}: no such file; a model is a folder with config.json and model.safetensors")
    digest = file_hash(weights)
    if digest != document.get("sha256"):
        raise InputError(
            f"{weights}: its sha256 is not the one in config.json; the file was truncated or edited: copy the model again"
        )
    try:
        tensors = load_file(str(weights))
    except (OSError, SafetensorError) as e:
        raise InputError(f"{weights}: not readable as safetensors ({e})") from e
    return config, tensors, digest


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> None:
    """Put the tensors of `file` into a module that was built from its configuration. InputError if they are not the module's."""
    own = module.state_dict()
    if odd := sorted(set(tensors) ^ set(own)):
        raise InputError(f"{file}: its tensors are not those of the configuration (first difference: {odd[0]})")
    for name, there in own.items():
        if there.shape != tensors[name].shape:
            raise InputError(f"{file}: {name} has shape {tuple(tensors[name].shape)}, not {tuple(there.shape)}")
    module.load_state_dict(tensors)

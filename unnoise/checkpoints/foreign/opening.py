"""An open checkpoint, wherever it lies: a diffusers folder, a single file, or either by its name on the hub."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from unnoise.checkpoints.foreign.folder import NETWORKS, PARTS, TOKENIZERS, is_diffusers, read_diffusers, read_part
from unnoise.checkpoints.foreign.hub import fetch, is_hub_name
from unnoise.checkpoints.foreign.parts import Foreign
from unnoise.checkpoints.foreign.single import open_single, together
from unnoise.core.errors import InputError


def open_foreign(source: str | Path, variant: str | None = None, beside: Sequence[str | Path] = ()) -> Foreign | None:
    """The checkpoint at a path, or of a name on the hub (OWNER/NAME); None for a path that is none, or no diffusers folder.

    variant: which of its weights, such as "fp16". beside: for a single file, files and folders that hold what it lacks: text
    encoders, their tokenizers, an autoencoder. Raises InputError for what is missing, truncated, pickled or not known here.
    """
    path = Path(source)
    if path.is_file():
        return _whole(path, [Path(b) for b in beside], variant)
    if not path.is_dir() and is_hub_name(str(source)):
        path = fetch(str(source), variant)
    if not is_diffusers(path):
        return None
    if beside:
        raise InputError(f"{path}: a folder in the layout of diffusers holds all its parts; --beside is for single files")
    return read_diffusers(path, variant)


def _whole(file: Path, beside: Sequence[Path], variant: str | None) -> Foreign:
    """A single file with what lies beside it. Parts of folders fill in what no file holds."""
    if missing := [p for p in beside if not p.exists()]:
        raise InputError(f"{missing[0]}: no such file or folder")
    foreign = open_single(file)
    if files := [open_single(p) for p in beside if p.is_file()]:
        foreign = together(foreign, *files)
    parts, tokenizers = dict(foreign.parts), dict(foreign.tokenizers)
    for folder in (p for p in beside if p.is_dir()):
        for name in PARTS:
            if name not in (*NETWORKS, *parts) and (folder / name).is_dir():
                parts[name] = read_part(folder / name, variant)
        tokenizers = {n: folder / n for n in TOKENIZERS if (folder / n).is_dir()} | tokenizers
    return replace(foreign, parts=parts, tokenizers=tokenizers)

"""The states of a set of pictures, made once by a codec and kept in a file: training a latent model then reads no pictures.

The file says which codec made it, and of which pictures: it is used for these alone, and refused for others.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.modalities.image.data import KeptStates, PictureData
from unnoise.modalities.image.latents import Latents
from unnoise.recipes.sources import glance_of

_AT_ONCE = 64


def cached_latents(codec: Latents, pictures: PictureData, fingerprint: str, file: Path, progress: bool = True) -> KeptStates:
    """The states of all pictures, as float16, with the mirrored pictures' where the options flip: from `file`, or made for it.

    fingerprint: of the data that the pictures were taken from. InputError for a file that another codec made, or of other pictures.
    """
    made = {"codec": codec.hash(), "pictures": _of(pictures, fingerprint)}
    shapes = pictures.by_shape()
    names = ["states"] if len(shapes) == 1 else [f"states.{i}" for i in range(len(shapes))]
    if file.exists():
        return KeptStates.of(_read(file, names, made, _of(pictures, glance_of(fingerprint))), shapes)
    ways = (False, True) if pictures.options.flip else (False,)
    with tqdm(total=len(ways) * len(pictures), desc="latents", unit="", disable=not progress, leave=False) as bar:

        def states(rows: Sequence[int], mirrored: bool) -> Iterator[Tensor]:
            for first in range(0, len(rows), _AT_ONCE):
                x = torch.from_numpy(pictures.shaped(rows[first : first + _AT_ONCE]))
                yield codec.resized(*x.shape[1:3]).encode(x.flip(-2) if mirrored else x).cpu().half()
                bar.update(len(x))

        parts = [torch.stack([torch.cat([*states(rows, mirrored)]) for mirrored in ways]).contiguous() for rows in shapes]
    with atomically(file) as partial:
        save_file(dict(zip(names, parts)), partial, made)
    return KeptStates.of(parts, shapes)


def _of(pictures: PictureData, fingerprint: str) -> str:
    buckets = "" if pictures.options.buckets is None else f" {pictures.height} {pictures.width} {pictures.options.buckets}"
    h = hashlib.sha256(f"{fingerprint} {pictures.options.flip}{buckets}".encode())
    for name in pictures.names:
        h.update(name.encode(errors="surrogatepass"))
    return h.hexdigest()


def _read(file: Path, names: Sequence[str], wanted: dict[str, str], formerly: str) -> list[Tensor]:
    """formerly: what earlier versions called these pictures."""
    try:
        with safe_open(file, "pt") as f:
            had = f.metadata() or {}
            _check(file, had, wanted, formerly)
            return [f.get_tensor(name) for name in names]
    except (OSError, SafetensorError) as e:
        raise InputError(f"{file} cannot be read as cached latents ({e}); remove it, and they are made anew") from None


def _check(file: Path, had: Mapping[str, str], wanted: dict[str, str], formerly: str) -> None:
    for key, what in (("codec", "by codec"), ("pictures", "of pictures")):
        if had.get(key) not in (wanted[key], formerly):
            raise InputError(
                f"{file} holds latents made {what} {str(had.get(key))[:16]}, and this run's are {wanted[key][:16]}; remove it, and "
                "they are made anew"
            )

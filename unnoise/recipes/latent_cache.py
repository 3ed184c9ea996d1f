"""The states of a set of pictures, made once by a codec and kept in a file: training a latent model then reads no pictures.

The file says which codec made it, and of which pictures: it is used for these alone, and refused for others.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.modalities.image.data import PictureData
from unnoise.modalities.image.latents import Latents
from unnoise.recipes.sources import glance_of

_AT_ONCE = 64


def cached_latents(codec: Latents, pictures: PictureData, fingerprint: str, file: Path, progress: bool = True) -> Tensor:
    """(1, N, c, h, w) float16, or (2, N, c, h, w) with the mirrored pictures' where the options flip: from `file`, or made for it.

    fingerprint: of the data that the pictures were taken from. InputError for a file that another codec made, or of other pictures.
    """
    made = {"codec": codec.hash(), "pictures": _of(pictures, fingerprint)}
    if file.exists():
        return _read(file, made, _of(pictures, glance_of(fingerprint)))
    parts = []
    ways = (False, True) if pictures.options.flip else (False,)
    with tqdm(total=len(ways) * len(pictures), desc="latents", unit="", disable=not progress, leave=False) as bar:
        for mirrored in ways:
            for first in range(0, len(pictures), _AT_ONCE):
                x = torch.from_numpy(pictures.pictures(range(first, min(first + _AT_ONCE, len(pictures)))))
                parts.append(codec.encode(x.flip(-2) if mirrored else x).cpu().half())
                bar.update(len(x))
    states = torch.cat(parts).unflatten(0, (len(ways), len(pictures)))
    with atomically(file) as partial:
        save_file({"states": states.contiguous()}, partial, made)
    return states


def _of(pictures: PictureData, fingerprint: str) -> str:
    h = hashlib.sha256(f"{fingerprint} {pictures.options.flip}".encode())
    for name in pictures.names:
        h.update(name.encode(errors="surrogatepass"))
    return h.hexdigest()


def _read(file: Path, wanted: dict[str, str], formerly: str) -> Tensor:
    """formerly: what earlier versions called these pictures."""
    try:
        with safe_open(file, "pt") as f:
            had, states = f.metadata() or {}, f.get_tensor("states")
    except (OSError, SafetensorError) as e:
        raise InputError(f"{file} cannot be read as cached latents ({e}); remove it, and they are made anew") from None
    for key, what in (("codec", "by codec"), ("pictures", "of pictures")):
        if had.get(key) not in (wanted[key], formerly):
            raise InputError(
                f"{file} holds latents made {what} {str(had.get(key))[:16]}, and this run's are {wanted[key][:16]}; remove it, and "
                "they are made anew"
            )
    return states

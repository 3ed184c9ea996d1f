"""Pictures named on the command line, as a model's codec takes them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.modalities.image.codec import Pixels
from unnoise.modalities.image.decode import Target, Unreadable, decode, inspect
from unnoise.modalities.image.latents import Latents

WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def read_masks(paths: Sequence[Path], codec: Codec, n: int) -> np.ndarray:
    """bool (n, H, W), True where a picture is white: what cannot be seen of it is not. As `read_pictures`."""
    return read_pictures(paths, codec, n, 1, BLACK)[..., 0] > 127


def read_pictures(
    paths: Sequence[Path],
    codec: Codec,
    n: int,
    channels: int | None = None,
    background: tuple[int, int, int] = WHITE,
    whole: bool = False,
) -> np.ndarray:
    """uint8 (n, H, W, C) of the codec's size; one picture stands for all n. Cropped about the centre, or stretched, `whole`.

    channels: the codec's own, unless given. background: what is seen through a picture. Raises InputError for files that cannot be
    read, and for another number of them.
    """
    if not isinstance(codec, Pixels | Latents):
        raise InputError(f"{paths[0]}: a picture, and this model makes none")
    if len(paths) not in (1, n):
        raise InputError(f"{len(paths)} pictures for {n} samples: give one for all, or one each")
    config = codec.config
    target = Target(config.height, config.width, channels or config.channels, background, pad=False, stretch=whole)
    return np.concatenate([_read(path, target)[None] for path in paths] * (n if len(paths) == 1 else 1))


def sides(path: Path) -> tuple[int, int]:
    """Height and width of a picture, upright. InputError for a file that is none."""
    try:
        with open(path, "rb") as file:
            header = inspect(file)
    except (OSError, Unreadable) as e:
        raise _unreadable(path, e) from None
    return header.height, header.width


def _read(path: Path, target: Target) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            return decode(file, target)
    except (OSError, Unreadable) as e:
        raise _unreadable(path, e) from None


def _unreadable(path: Path, why: Exception) -> InputError:
    return InputError(f"{path}: not readable as a picture ({why})")

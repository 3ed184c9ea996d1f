"""Adapters named on the command line: WHERE:PICTURES, WHERE:PICTURES:SCALE or WHERE:PICTURES:SCALE:LOW:HIGH.

Behind a control picture may stand its kind, for ControlNets that tell several apart: union:edges.png=3,depth.png=1:0.8
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unnoise.checkpoints.foreign.adapters import (
    ENCODER,
    brings_low_rank,
    controlnet,
    encoder_near,
    face_prompt,
    picture_prompt,
    prompt_at_hand,
    steering_at_hand,
    weights_in,
)
from unnoise.checkpoints.foreign.hub import at_hand
from unnoise.checkpoints.foreign.memory import numbers_at
from unnoise.control.adapters import Attachment
from unnoise.control.guidance import Interval
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.model import DiffusionModel


class Told(NamedTuple):
    where: str
    pictures: tuple[str, ...]
    scale: float
    interval: Interval


def parse_adapter(option: str, told: str) -> Told:
    """InputError for what is not of this form."""
    where, *rest = told.split(":")
    try:
        pictures, *numbers = rest
        scale, low, high = [*map(float, numbers), *[1.0, 0.0, 1.0][len(numbers) :]]
    except ValueError:
        form = "WHERE:PICTURE, WHERE:PICTURE:SCALE or WHERE:PICTURE:SCALE:LOW:HIGH"
        raise InputError(f"{option} {told!r}: tell it as {form}, such as canny:edges.png:0.8") from None
    return Told(where, tuple(pictures.split(",")), scale, (low, high))


def with_mode(picture: str) -> tuple[str, int | None]:
    """edges.png=3 as edges.png and 3."""
    file, equals, mode = picture.rpartition("=")
    return (file, int(mode)) if equals and mode.isdecimal() else (picture, None)


def pictured(controls: Sequence[str]) -> list[Path]:
    """The pictures of --control."""
    return [Path(with_mode(picture)[0]) for told in controls for picture in parse_adapter("--control", told).pictures]


def numbers_of(controls: Sequence[str], prompts: Sequence[str], encoder: str | None, bf16: bool) -> int:
    """How many weights those of --control and --picture-prompt have together, and the encoders of pictures, which stay in
    float32: in bfloat16 each of theirs counts for two. What the hub has is fetched; InputError where it is not there.
    """
    files = {steering_at_hand(Path(parse_adapter("--control", c).where)) for c in controls}
    clips = set[Path]()
    for where in {parse_adapter("--picture-prompt", p).where for p in prompts}:
        files.add(weights_in(file := prompt_at_hand(Path(where), encoder)))
        given = _encoder(file, encoder)
        with suppress(InputError):  # told when it is read
            clips.add(Path(given) if given else encoder_near(file))
    return sum(map(numbers_at, files)) + (2 if bf16 else 1) * sum(map(numbers_at, clips))


def read_adapters(
    model: DiffusionModel, controls: Sequence[str], guess: bool, prompts: Sequence[str], encoder: str | None
) -> list[Attachment]:
    """For a model, those of --control (in guess mode, where asked for) and of --picture-prompt."""
    network = model.denoiser.network if isinstance(model.denoiser, NetworkDenoiser) else None
    out: list[Attachment] = []
    for told in (parse_adapter("--control", c) for c in controls):
        pictures, modes = zip(*map(with_mode, told.pictures))
        known = [mode for mode in modes if mode is not None]
        out.append(controlnet(told.where, pictures, told.scale, told.interval, guess, known, network))
    for told in (parse_adapter("--picture-prompt", p) for p in prompts):
        own = _encoder(prompt_at_hand(Path(told.where), encoder), encoder)
        faces, shown = ([p for p in told.pictures if p.endswith(FACES) is whether] for whether in (True, False))
        if faces:
            seen = torch.cat([read_faces(Path(p)) for p in faces])
            out.append(face_prompt(told.where, seen, told.scale, told.interval, shown, own))
        else:
            out.append(picture_prompt(told.where, shown, own, told.scale, told.interval))
    return out


FACES = ".npy"
"""How files with embeddings of faces end."""


def read_faces(file: Path) -> Tensor:
    """What a recogniser says of faces, (n, D), of a file of numpy's. InputError for a file that holds something else."""
    try:
        seen = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise InputError(f"{file}: not readable as numpy's numbers ({e})") from None
    if not isinstance(seen, np.ndarray) or seen.dtype.kind != "f" or seen.ndim not in (1, 2) or not np.isfinite(seen).all():
        raise InputError(f"{file}: embeddings of faces are floating-point numbers (D,) or (n, D), and finite")
    return torch.from_numpy(np.atleast_2d(seen).astype(np.float32))


def loras_of(prompts: Sequence[str]) -> list[Path]:
    """The LoRAs that files of --picture-prompt have beside them, as FaceID's do."""
    files = dict.fromkeys(Path(parse_adapter("--picture-prompt", p).where) for p in prompts)
    return [file for file in files if brings_low_rank(at_hand(file, ()))]


def _encoder(where: Path, given: str | None) -> str | None:
    """The one of --picture-encoder, but for a folder that has its own: Redux reads SigLIP, and an IP-Adapter beside it CLIP."""
    return None if (where / ENCODER).is_dir() else given

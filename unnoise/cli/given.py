"""Pictures that unnoise sample is given: to begin with, to fill in, to change, to follow."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unnoise.checkpoints.foreign.telling import NetworkConfig
from unnoise.cli.adapters import pictured
from unnoise.cli.pictures import read_masks, read_pictures, sides
from unnoise.control.adapters import same_shape
from unnoise.control.filling import Fill
from unnoise.control.sampling import Start
from unnoise.core.codec import Codec, within
from unnoise.core.errors import InputError, option
from unnoise.core.state import Cond
from unnoise.modalities.image.codec import resized
from unnoise.modalities.image.in_context import InContext
from unnoise.modalities.image.inpainting import Inpainting
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.words.frozen import encoders_of
from unnoise.model import DiffusionModel, controlled, editing

if TYPE_CHECKING:
    from unnoise.cli.sample import Sample

_PICTURES = ("start", "fill", "change", "follow")


def check_given(args: "Sample") -> None:
    """InputError for files that are not there, and masks that do not lie as their pictures do."""
    for path in (*args.start, *args.fill, *args.mask, *args.change, *args.follow):
        if not path.is_file():
            raise InputError(f"{path}: not readable as a picture: no such file")
    if len(args.fill) != len(args.mask):
        raise InputError(f"{len(args.fill)} pictures to --fill and {len(args.mask)} of --mask: as many of each")
    if len(several := [option(name) for name in _PICTURES[1:] if getattr(args, name)]) > 1:
        raise InputError(f"{' and '.join(several)}: a model does one of them")
    for picture, mask in zip(args.fill, args.mask):
        if not same_shape(shape := sides(picture), other := sides(mask)):
            raise InputError(
                f"{mask}: a mask of {_by(other)} for a picture of {_by(shape)} (height x width): of another shape, "
                "it does not say where in the picture something is to be drawn"
            )


def side(args: "Sample") -> tuple[int, int] | None:
    """Height and width in pixels; None for the model's own."""
    height = args.width if args.height is None else args.height
    return None if height is None else (height, height if args.width is None else args.width)


def sized(args: "Sample", model: DiffusionModel) -> Codec:
    """The codec for the pictures that are asked for."""
    asked = side(args)
    return model.codec if asked is None else resized(model.codec, *asked)


def shaped(args: "Sample", model: DiffusionModel) -> "Sample":
    """With the size at which the pictures that are given are drawn, where none was said: of their shape, and as large in all as
    the model's own. A model that is no open checkpoint, nor like one, was taught one shape and keeps to it: they are cut.
    InputError for pictures of several shapes.
    """
    given = {option(name): getattr(args, name) for name in _PICTURES} | {"--control": pictured(args.control)}
    name, paths = next((item for item in given.items() if item[1]), ("", ()))
    if not paths or side(args) is not None:
        return args
    looking = within(model.conditioner, InContext)
    if looking is not None and args.change:
        fit = partial(looking.seen_at, model.codec)
    elif isinstance(model.codec, Latents) and isinstance(model.config.network, NetworkConfig) and encoders_of(model.conditioner):
        own, step = model.codec.config, model.codec.config.autoencoder.factor * getattr(model.config.network, "patch", 1)
        fit = partial(in_shape, (own.height, own.width), step)
    else:
        return args
    height, width = _one_shape(name, paths, fit)
    return replace(args, height=height, width=width)


def in_shape(own: tuple[int, int], step: int, height: int, width: int) -> tuple[int, int]:
    """Multiples of `step` in the ratio of height to width, as near as may be, whose product is that of `own`."""
    scale = sqrt(own[0] * own[1] / (height * width)) / step
    return max(1, round(height * scale)) * step, max(1, round(width * scale)) * step


def begun(args: "Sample", model: DiffusionModel, n: int) -> Start | None:
    """What is begun with: pictures of their own, or those that a model which was trained for it fills in."""
    pictures = args.start or (args.fill if args.strength is not None else ())
    strength = 0.5 if args.strength is None else args.strength
    return Start(_read(pictures, sized(args, model), n), strength) if pictures else None


def kept(args: "Sample", model: DiffusionModel, n: int) -> Fill | None:
    """What a model that was not trained to fill in keeps, and draws anew."""
    if not args.fill or within(model.conditioner, Inpainting) is not None:
        return None
    if args.start:
        raise InputError("--start and --fill: what is filled in begins with its own pictures; --strength says how far")
    if args.then:
        raise InputError("--fill with --then: what comes after would draw all of it anew, what is to stay as well; leave one out")
    pictures, masks = _masked(args, model, n)
    return Fill(pictures, masks, 1.0 if args.strength is None else args.strength)


def filled(args: "Sample", model: DiffusionModel, n: int) -> Cond | None:
    """What a model that fills in, changes or follows pictures is given."""
    codec = sized(args, model)
    if args.change:
        changing = editing(model)
        if not isinstance(changing, InContext):
            return changing.of(codec, _read(args.change, codec, n))
        codec = resized(codec, *_one_shape("--change", args.change, partial(changing.seen_at, model.codec)))
        return changing.of(codec, read_pictures(args.change, codec, n, whole=True))
    if args.follow:
        return controlled(model).of(codec, _read(args.follow, codec, n))
    filling = within(model.conditioner, Inpainting)
    return filling.of(codec, *_masked(args, model, n)) if args.fill and filling else None


def _masked(args: "Sample", model: DiffusionModel, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures to fill in, and where."""
    codec = sized(args, model)
    masks = read_masks(args.mask, codec, n)
    if nothing := [path for path, mask in zip(args.mask * n, masks) if not mask.any()]:
        beyond = "" if same_shape(sides(nothing[0]), masks.shape[1:]) else " within the middle of it, which is drawn"
        raise InputError(f"{nothing[0]}: nothing of this mask is white{beyond}, so nothing would be drawn anew")
    return _read(args.fill, codec, n), masks


def _one_shape(name: str, paths: Sequence[Path], fit: Callable[[int, int], tuple[int, int]]) -> tuple[int, int]:
    """Height and width at which all pictures are best drawn."""
    at = {fit(*sides(path)): path for path in paths}
    if len(at) > 1:
        shapes = ", ".join(f"{path} at {_by(size)}" for size, path in at.items())
        raise InputError(f"{name}: pictures of several shapes ({shapes}, height x width): one run takes one shape")
    return next(iter(at))


def _read(paths: Sequence[Path], codec: Codec, n: int) -> np.ndarray:
    """As `read_pictures`; says where much of one is cut off."""
    pictures = read_pictures(paths, codec, n)
    for path in dict.fromkeys(paths):
        if not same_shape(shape := sides(path), drawn := pictures.shape[1:3]):
            print(f"{path}: of its {_by(shape)} (height x width) the middle, in the shape of {_by(drawn)}", file=sys.stderr)
    return pictures


def _by(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"

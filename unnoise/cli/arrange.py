"""--arrange of unnoise sample: what the prompts count and place is drawn one at a time, put where a layout says, and gone over."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from unnoise.control.layout.arranged import arranged, counts_or_places
from unnoise.control.sampling import Samples, Start
from unnoise.core.codec import Codec
from unnoise.core.errors import InputError, option
from unnoise.core.random import derive
from unnoise.modalities.image.codec import Pixels
from unnoise.modalities.image.latents import Latents

BESIDE = ("start", "fill", "change", "follow", "control", "picture_prompt", "original", "budget", "error")

Walk = Callable[[Sequence[str], Sequence[int], Start | None], Samples]
"""Prompts and seeds, one each -> their samples. With a start they are of the size that was asked for, else of the model's own."""


def check_arrange(args: Any) -> None:
    """InputError for a share that is none, no prompts, and options that arranging does not go with."""
    if args.arrange is None:
        return
    if not 0 <= args.arrange <= 1:
        raise InputError(f"--arrange {args.arrange:g}: the share of the steps that goes over what was put together, 0 to 1")
    if not args.prompts:
        raise InputError("--arrange without a prompt: it puts things where a prompt says")
    if beside := _beside(args):
        raise InputError(f"--arrange with {', '.join(beside)}: what is arranged begins with things drawn by words alone")


def arranges(args: Any) -> bool:
    """Whether all prompts count or place things, and no option stands in the way."""
    square = args.width is None or args.height in (None, args.width)
    return square and all(map(counts_or_places, args.prompts)) and not _beside(args)


def arrange(args: Any, n: int, codec: Codec, steps: int, walk: Walk) -> Samples:
    """n samples for every prompt. codec: for the size that is asked for. steps: of a whole walk."""
    if not isinstance(codec, Pixels | Latents):
        raise InputError("--arrange: this model makes no pictures")
    if codec.config.height != codec.config.width:
        raise InputError("--arrange is for square pictures")
    if n < 1:
        raise InputError(f"n {n}: ask for at least 1 sample")
    if args.arrange > 0:  # refuses less than a step before anything is drawn
        Start(None, args.arrange).times(torch.zeros(steps + 1))
    prompts = [prompt for prompt in args.prompts for _ in range(n)]
    seeds = args.sample_seeds or [derive(args.seed, i) for i in range(len(prompts))]
    if len(seeds) != len(prompts):
        raise InputError(f"{len(seeds)} sample seeds for {len(prompts)} samples: one each is needed")
    drawn: list[Samples] = []

    def things(names: Sequence[str], of: Sequence[int]) -> np.ndarray:
        drawn.append(walk(names, of, None))
        return np.asarray(drawn[0].data)

    finer = 2 if args.arrange == 0 and args.height is None and args.width is None else 1  # parts are as fine as whole pictures
    pictures = arranged(prompts, seeds, things, finer * codec.config.height)
    if args.arrange > 0:
        samples = walk(prompts, seeds, Start(pictures, args.arrange))
    else:
        samples = replace(drawn[0], data=pictures, prompts=tuple(prompts), seeds=tuple(seeds))
    size = {"height": args.height, "width": args.width, "strength": None}
    return replace(samples, settings={**samples.settings, **size, "arrange": args.arrange})


def _beside(args: Any) -> list[str]:
    return [option(name) for name in BESIDE if getattr(args, name) not in (None, ())]

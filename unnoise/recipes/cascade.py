"""Cascades (Ho et al. 2021, 2106.15282): a small picture first, then models that each go on from what the one before made.

Recipe `super-resolution` trains a stage that enlarges (see `modalities.image.enlarging`): the `pictures` recipe's transformer on
fine patches, told the picture that it enlarges, which it adds detail to. `go_on` chains any models of which each follows the other:
a base model and its enlargers, a prior over embeddings and its decoder (`unclip`), SDXL and its refiner, or all of these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from unnoise.control.sampling import Samples, Start
from unnoise.core.codec import Codec, Following, within
from unnoise.core.errors import InputError
from unnoise.core.random import Streams, derive
from unnoise.core.state import Cond
from unnoise.modalities.image.codec import Pixels, PixelsConfig
from unnoise.modalities.image.enlarging import EnlargingConfig
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.words.settings import WithSizes
from unnoise.model import DiffusionModel
from unnoise.networks.onto import OntoPictureConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.recipes.options import Options
from unnoise.recipes.pictures import plain
from unnoise.recipes.run import Run
from unnoise.recipes.sources import OpenPictures, PictureSource

_DIM = 192  # of the vector: words and strength


def super_resolution(opened: OpenPictures, source: PictureSource, options: Options) -> Run:
    run, data = plain(opened, source, options), opened.pictures
    codec, network = run.model.codec, run.model.network
    assert isinstance(codec, PixelsConfig)
    assert isinstance(network, DiffusionTransformerConfig)
    conditioner = EnlargingConfig(run.model.conditioner, codec, options.factor, _DIM, network.vector_dim)
    patch = max(options.factor, math.ceil(max(data.height, data.width) / 16))
    fine = replace(
        network, patch=patch, width=options.width or 128, depth=options.depth or 4, bottleneck=2 * data.channels * patch**2,
        vector_dim=_DIM, picture_channels=data.channels,
    )  # fmt: skip
    sampling = replace(run.model.sampling, steps=10, guidance=1.0)  # the picture says nearly all
    batch = options.batch or min(32, len(data))
    steps = options.steps or math.ceil(run.train.steps * run.train.batch / batch)
    return replace(
        run,
        model=replace(run.model, conditioner=conditioner, network=OntoPictureConfig(fine), sampling=sampling),
        train=replace(
            run.train, steps=steps, batch=batch, warmup=min(100, steps // 10), checkpoint_every=max(1, min(500, steps // 4)),
            snapshot_every=max(1, steps // 16), sample_every=max(250, steps // 8),
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Cascade:
    """Models of which each goes on from what the one before it makes, sampled as one. Raises InputError for any that cannot."""

    models: tuple[DiffusionModel, ...]

    def __post_init__(self) -> None:
        for before, model in zip(self.models, self.models[1:]):
            check_follows(model, before.codec)
        if not self.models:
            raise InputError("a cascade needs at least one model")

    def sample(
        self,
        prompts: Sequence[str | None] | str | None = None,
        n: int = 1,
        seed: int = 0,
        *,
        sample_seeds: Sequence[int] | None = None,
        exact: bool = False,
        bf16: bool = False,
        batch: int = 64,
    ) -> Samples:
        """As `DiffusionModel.sample`, every model by its own usual settings."""
        first, *rest = self.models
        made = first.sample(prompts, n, seed, sample_seeds=sample_seeds, exact=exact, bf16=bf16, batch=batch)
        return go_on(made, rest, exact=exact, bf16=bf16, batch=batch)


def go_on(made: Samples, models: Sequence[DiffusionModel], *, exact: bool = False, bf16: bool = False, batch: int = 64) -> Samples:
    """What `models`, one after another, make of samples, told the same prompts.

    The k-th draws from a seed derived from (sample seed, "stage k"), so a sample is the same alone and in any batch. Its settings
    are the first model's, with the paths and hashes of those that followed. Raises InputError for a model that follows none, or
    does not take what the one before it makes; prompts that one of them cannot understand are refused too.
    """
    settings, data, codec = dict(made.settings), made.data, made.codec
    for model in models:
        if not refines(model):
            following(model)
    for k, model in enumerate(models, 1):
        check_follows(model, codec)
        seeds = tuple(derive(s, f"stage {k}") for s in made.seeds)
        how: dict[str, Any] = {"sample_seeds": seeds, "exact": exact, "bf16": bf16, "batch": batch}
        if refines(model):
            height, width = data.shape[1:3]
            new = model.sample(list(made.prompts), start=Start(data, REFINED), height=height, width=width, **how)
        else:
            new = model.sample(list(made.prompts), given=_given(following(model), data, seeds, batch), **how)
        data, codec = new.data, new.codec
    if models:
        settings["then"] = [m.path or m.config.about.name for m in models]
        settings["then_hash"] = [m.hash() for m in models]
    return replace(made, data=data, settings=settings, codec=codec)


REFINED = 0.3
"""The share of its steps that SDXL's refiner walks, from a picture of the base model, as in diffusers."""


def following(model: DiffusionModel) -> Following:
    """The conditioner of a model that goes on from what another one made. InputError for a model that does not."""
    if not isinstance(model.conditioner, Following):
        raise InputError(f"{model.path or model.config.about.name} goes on from no other model: it is told a prompt alone")
    return model.conditioner


def refines(model: DiffusionModel) -> bool:
    """Whether a model goes on from another's pictures by starting from them: SDXL's refiner, which is told a score of taste."""
    told = within(model.conditioner, WithSizes)
    return told is not None and told.config.scores is not None


def check_follows(model: DiffusionModel, codec: Codec) -> None:
    """InputError if a model cannot go on from what this codec of another decodes."""
    if not refines(model):
        following(model).follows(codec)
    elif not isinstance(codec, Pixels | Latents) or codec.config.channels != 3:
        raise InputError(f"{model.path or model.config.about.name} refines pictures in colour, and is given something else")


def _given(conditioner: Following, data: Any, seeds: Sequence[int], batch: int) -> Cond:
    """What a model is told of what the one before it made."""
    parts = [
        conditioner.from_made(data[i : i + batch], Streams.each(seeds[i : i + batch]).scoped("given"))
        for i in range(0, len(seeds), batch)
    ]
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}

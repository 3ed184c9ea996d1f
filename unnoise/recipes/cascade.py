"""Cascades (Ho et al. 2021, 2106.15282): a small picture first, then models that each go on from what the one before made.

Recipe `super-resolution` trains a stage that enlarges (see `modalities.image.enlarging`): a convolutional U-Net (SR3, Saharia et
al. 2021, 2104.07636) on blocks of factor x factor pixels, so in the small picture's own grid (Shi et al. 2016, 1609.05158). What is
denoised is the residual over the enlarged picture (`preconditioning.AboutPicture`), whose standard deviation d is measured: noise
levels, weight and the sampler's steps count from d. The first step, out of pure noise, finds the residual's mean; the others add
what the mean leaves out. The stage is told no words: the picture says nearly all, and so it follows any model.

`go_on` chains any models of which each follows the other: a base model and its enlargers, a prior over embeddings and its decoder
(`unclip`), SDXL and its refiner, or all of these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from unnoise.checkpoints.card import About
from unnoise.control.sampling import Samples, Sampling, Start
from unnoise.core.codec import Codec, Following, UnconditionalConfig, within
from unnoise.core.errors import InputError
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising
from unnoise.core.preconditioning import EDM, AboutPicture
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams, derive
from unnoise.core.schedules import RectifiedFlow
from unnoise.core.state import Cond
from unnoise.core.times import LogNormalSigma, LowDiscrepancy, Mixture, UniformTimes
from unnoise.core.weights import EDMWeight
from unnoise.modalities.image.codec import Pixels
from unnoise.modalities.image.data import PictureData
from unnoise.modalities.image.enlarging import EnlargingConfig
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.words.settings import WithSizes
from unnoise.model import DiffusionModel, ModelConfig
from unnoise.networks.patched import PatchedConfig
from unnoise.networks.unet import UNetConfig
from unnoise.recipes.options import Options
from unnoise.recipes.run import Preview, Run
from unnoise.recipes.sources import OpenPictures, PictureSource
from unnoise.samplers.grids import LogSNR
from unnoise.training.config import AdamWConfig, LinearDecay, TrainConfig

SAMPLES = 160_000
"""Pictures that the stage sees."""
_PICTURES = 256
"""That the residual is measured on, spread evenly."""


def super_resolution(opened: OpenPictures, source: PictureSource, options: Options) -> Run:
    data, blocks = opened.pictures, opened.pictures.channels * options.factor**2
    conditioner = EnlargingConfig(UnconditionalConfig(), data.codec(), options.factor)
    std, width = residual_std(data, conditioner), options.width or 32
    network = UNetConfig(
        channels=blocks,
        width=width,
        multipliers=(1, 2),
        blocks=options.depth or 2,
        attention=(),
        words=(),
        vector_dim=conditioner.dim,
        head_dim=min(32, width),
        groups=8,
        picture_channels=blocks,
    )
    batch = options.batch or min(32, len(data))
    steps = options.steps or math.ceil(SAMPLES / batch)
    return Run(
        data=source,
        model=ModelConfig(
            codec=conditioner.large,
            conditioner=conditioner,
            network=PatchedConfig(network, options.factor),
            process=Gaussian(RectifiedFlow()),
            preconditioner=AboutPicture(EDM(std)),
            sampling=Sampling(steps=8, sampler="dpmpp-2m", grid=LogSNR(-2 * math.log(8 * std), -2 * math.log(std / 12))),
            about=About(source.name(), data.account()),
        ),
        objective=Denoising(
            SquaredError(EDMWeight(std)), LowDiscrepancy(Mixture(LogNormalSigma(math.log(std) + 0.5, 1.4), UniformTimes(), 0.2))
        ),
        train=TrainConfig(
            steps=steps,
            batch=batch,
            seed=options.seed,
            optimiser=options.optimiser(AdamWConfig(options.lr or 1e-3, (0.9, 0.99))),
            warmup=min(100, steps // 10),
            decay=LinearDecay(start=0.5),
            checkpoint_every=max(1, min(250, steps // 4)),
            snapshot_every=max(1, steps // 16),
            sample_every=max(250, steps // 8),
        ),
        preview=Preview(seed=options.seed),
    )  # fmt: skip


def residual_std(data: PictureData, conditioner: EnlargingConfig) -> float:
    """Standard deviation of what pictures in [-1, 1] have over what is told of them, at all the strengths that are trained."""
    pixels = data.pictures(np.linspace(0, len(data) - 1, min(len(data), _PICTURES)).astype(int).tolist())
    enlarging = conditioner.build()
    told = enlarging.from_data(pixels, Streams.of(0, len(pixels)))["picture"]
    return max(float((enlarging.pixels.encode(pixels) - told).std()), 1e-3)


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


def go_on(
    made: Samples, models: Sequence[DiffusionModel], *, negative: str | None = None, exact: bool = False, bf16: bool = False,
    batch: int = 64,
) -> Samples:  # fmt: skip
    """What `models`, one after another, make of samples, told the same prompts.

    negative: led away from by those that refine, which are told the prompt too.
    The k-th draws from a seed derived from (sample seed, "stage k"), so a sample is the same alone and in any batch. Its settings
    are the first model's, with the paths and hashes of those that followed. Raises InputError for a model that follows none, or
    does not take what the one before it makes; prompts that one of them cannot understand are refused too.
    """
    settings, data, codec = dict(made.settings), made.data, made.codec
    opaque = data.shape[-1] == 3
    for model in models:
        if not refines(model):
            following(model)
    for k, model in enumerate(models, 1):
        check_follows(model, codec)
        seeds = tuple(derive(s, f"stage {k}") for s in made.seeds)
        how: dict[str, Any] = {"sample_seeds": seeds, "exact": exact, "bf16": bf16, "batch": batch}
        if refines(model):
            height, width = data.shape[1:3]
            refined = Start(data, REFINED)
            away = negative if model.config.sampling.guidance != 1 else None
            new = model.sample(list(made.prompts), negative=away, start=refined, height=height, width=width, **how)
        else:
            given = _given(following(model), data, seeds, batch)
            height, width = given["picture"].shape[2:] if "picture" in given else (None, None)
            new = model.sample(list(made.prompts), given=given, height=height, width=width, **how)
            if "picture" in given and opaque and new.data.shape[-1] == 4:
                new.data[..., 3] = 255
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

"""The recipe `scenes`: exact counts, places and words, by a layout that is drawn before the picture is.

The conditioner plans what lies where (`control.layout`), the network is told it as a picture and paints it: what is left to the
network is how things look, which a small U-Net on 2 x 2 pixels learns in minutes. It predicts the picture itself, weighted alike at
all times that lean towards noise: told so much, it knows the picture from the start, and spends nothing on the noise (with EDM's
preconditioning it still left noise in every picture after five times as many steps). Training tells the layout that the scene was
made from; the generator for prompts that no grammar reads learns along.
"""

import itertools
import string
from dataclasses import replace

from unnoise.checkpoints.card import About
from unnoise.control.layout.conditioner import PlannedConfig
from unnoise.control.layout.generator import LayoutGeneratorConfig
from unnoise.control.layout.rows import LaidOut
from unnoise.control.sampling import Sampling
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising
from unnoise.core.preconditioning import Data
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow
from unnoise.core.times import LogitNormal, LowDiscrepancy
from unnoise.core.weights import DataWeight
from unnoise.modalities.conditioning import TextConfig
from unnoise.modalities.image.data import PictureData
from unnoise.modalities.image.scenes.outlines import Outlines
from unnoise.modalities.image.scenes.shapes import Shapes
from unnoise.modalities.image.scenes.sprites import Sprites
from unnoise.model import ModelConfig
from unnoise.networks.patched import PatchedConfig
from unnoise.networks.text import TextEncoderConfig
from unnoise.networks.unet import UNetConfig
from unnoise.recipes.options import Options
from unnoise.recipes.run import Preview, Run
from unnoise.recipes.sources import OpenPictures, PictureSource
from unnoise.training.config import AdamWConfig, LinearDecay, TrainConfig

PATCH = 2
CAPTIONS = 500
"""Rows whose captions show how long texts get."""
LONGEST_PROMPT = 160
"""Bytes, at least: prompts that are planned without being understood may be longer than captions."""
MOST_DRAWN = 64
"""Kinds of things that layouts are drawn of by a model; of more than these, by the grammar alone."""
PROMPTS = (
    "three red apples left of a sign that says OPEN", "ten small blue fish", "a pink star inside a yellow ring",
    "a blue house behind a red tree", "a sign that says ZEBRA", "two purple cups above three orange hearts",
    "a large brown moon on a mint background", "a big red circle and 4 grey flowers",
)  # fmt: skip


SAMPLES = 140_000
"""Pictures that the network sees: as many as the model that ships has seen."""


def scenes(opened: OpenPictures, source: PictureSource, options: Options) -> Run:
    """InputError for pictures that no world drew."""
    data = opened.kept()
    sprites = LaidOut.world_of(data).sprites
    planned = planner(data, sprites if isinstance(sprites, Shapes) else Outlines.of(sprites))
    dim, std, width = planned.words.encoder.width, data.data_std(), options.width or 32
    network = UNetConfig(
        channels=3 * PATCH**2,
        width=width,
        multipliers=(1, 1),
        blocks=options.depth or 1,
        attention=(),
        words=(),
        vector_dim=dim,
        token_dim=dim,
        head_dim=min(32, width),
        groups=8,
        picture_channels=planned.picture_channels * PATCH**2,
    )
    if isinstance(sprites, Shapes):
        prompts: tuple[str, ...] = PROMPTS
    else:  # of things that these sprites are of
        prompts = tuple(data.captions[row][0] for row in range(len(PROMPTS)))
    batch = options.batch or 8
    steps = options.steps or max(1, SAMPLES // batch)
    return Run(
        data=source,
        model=ModelConfig(
            codec=data.codec(),
            conditioner=planned,
            network=PatchedConfig(network, PATCH),
            process=Gaussian(RectifiedFlow()),
            preconditioner=Data(std),
            sampling=Sampling(steps=12, sampler="dpmpp-2m", guidance=1.0),
            about=About(
                source.name(), f"scenes of {data.width} x {data.height} pixels, drawn by code", "free of rights", prompts[:3]
            ),
        ),
        objective=Denoising(SquaredError(DataWeight()), LowDiscrepancy(LogitNormal(mean=0.8, std=1.2))),
        train=TrainConfig(
            steps=steps,
            batch=batch,
            seed=options.seed,
            optimiser=options.optimiser(AdamWConfig(options.lr or 2e-3, (0.9, 0.99))),
            warmup=min(60, steps // 10),
            decay=LinearDecay(start=0.4),
            checkpoint_every=max(1, min(100, steps // 4)),
            snapshot_every=max(1, steps // 16),
            sample_every=max(250, steps // 8),
        ),
        preview=Preview(prompts, n=2, seed=options.seed),
    )


def planner(data: PictureData, sprites: Sprites) -> PlannedConfig:
    """What plans for pictures of a world, as large as they are."""
    seen = itertools.chain.from_iterable(data.captions[row] for row in range(min(len(data), CAPTIONS)))
    words = TextConfig.of([*seen, string.printable], TextEncoderConfig(width=96, depth=2, heads=3, buckets=1024))
    words = replace(words, encoder=replace(words.encoder, length=max(LONGEST_PROMPT, words.encoder.length)))
    dim = words.encoder.width
    plain = PlannedConfig(words, sprites, data.height, data.width)
    sizes = plain.layouts
    if sizes.kinds > MOST_DRAWN:
        return plain
    generator = LayoutGeneratorConfig(sizes.kinds, len(sizes.palette), sizes.slots, dim, dim, width=96, depth=3)
    return replace(plain, generator=generator)

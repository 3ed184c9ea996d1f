"""The recipe `stickers`: the model that ships, in one command. `unnoise train stickers:FOLDER --recipe stickers`

A text encoder distilled from a sentence encoder, an autoencoder that keeps transparency (64 x 64 pixels <-> 8 x 8 codes), and a
transformer over 64 codes that is told the words' tokens and their mean, and learns along what tells words apart. What it learns
from: `modalities.image.sticker_set`.
Rectified flow in the codes (Liu et al. 2022, 2209.03003) with logit-normal times (Esser et al. 2024, 2403.03206) and a tenth of
uniform ones, the network predicting the codes themselves. Half of the patches skip the middle blocks in training (TREAD,
2501.04765).

What the words say is decided at t = .6 and above: at t = .5 the network's error is an eighth less for knowing them, at t = .95
almost a half. So times have a mean of .8 before the logistic function: 27 % of all lie above t = .8, where a mean of 0 has 10 %.
Logit-normal times alone leave the noise itself (t > .97) all but unlearnt, and what the network makes of it spoils the picture
where a grid dwells there (steps even in log-SNR do; the shifted grid leaves the noise in one step).
"""

from dataclasses import replace

from unnoise.checkpoints.card import About
from unnoise.control.sampling import Sampling
from unnoise.core.codec import Buildable
from unnoise.core.errors import InputError
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising
from unnoise.core.preconditioning import Data
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import RectifiedFlow
from unnoise.core.times import LogitNormal, LowDiscrepancy, Mixture
from unnoise.core.weights import VelocityWeight
from unnoise.loading import load
from unnoise.modalities.words.distilled import DistilledConfig
from unnoise.model import ModelConfig
from unnoise.networks.bottlenecks import KLConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.recipes.autoencoder import AutoencoderRun, ReconstructionLosses, autoencoder_run, factor_of, latent_channels
from unnoise.recipes.distil_text import DistilRun, distil_text
from unnoise.recipes.latent import LatentRun, first_stage
from unnoise.recipes.options import Options
from unnoise.recipes.run import Preview
from unnoise.recipes.sources import OpenPictures, PictureSource
from unnoise.recipes.text_encoders import GivenWords, Words, given_words, words_of
from unnoise.training.config import AdamWConfig, LinearDecay, TrainConfig

PROMPTS = (
    "a cat", "red apple, in the style of noto", "rocket, fluent 3d", "a blue banana", "a dog wearing a top hat",
    "three strawberries", "a guitar left of a pizza", "a penguin in front of a sunset", "a green heart",
    "scene with two red stars above a green house", "crown, in the style of twemoji", "a smiling sun", "icon of anchor",
    "a purple dragon", "grinning face wearing a crown", "tree",
)  # fmt: skip
SAMPLES = 3_000_000
"""Pictures that the transformer sees."""
CODEC_SAMPLES = 160_000
"""Pictures that the autoencoder sees."""


def stickers(opened: OpenPictures, source: PictureSource, options: Options) -> LatentRun:
    """InputError for pictures that are not transparent."""
    data = opened.pictures
    if data.channels != 4:
        raise InputError(f"recipe 'stickers' is for transparent pictures; give it stickers:FOLDER, and not {source.path}")
    words: GivenWords | DistilRun | None = None
    conditioner: Buildable
    vector_dim = token_dim = 0
    if options.begin_with is not None:  # codec and words are that model's
        options = replace(options, codec=options.begin_with)
        conditioner = load(str(options.begin_with)).config.conditioner
    else:
        if options.text_encoder:
            words, told = given_words(options.text_encoder), words_of(options.text_encoder)
        else:
            words = distil_text(opened, source, Options(seed=options.seed))
            told = Words(words.student, *2 * (words.student.encoder.out,))
        conditioner, vector_dim, token_dim = told
        if isinstance(conditioner, DistilledConfig):
            conditioner = replace(conditioner, learnt=40)
    codec, first = first_stage(opened, options, lambda: _first(opened, source, options))
    depth, batch = options.depth or 8, options.batch or 64
    network = DiffusionTransformerConfig(
        channels=codec.latent_channels,
        patch=1,
        width=options.width or 256,
        depth=depth,
        heads=4,
        vector_dim=vector_dim,
        token_dim=token_dim,
        routed=(depth // 4, depth - depth // 4) if depth >= 4 else (0, 0),
    )
    steps = options.steps if options.steps is not None else SAMPLES // batch
    return LatentRun(
        data=source,
        first=first,
        model=ModelConfig(
            codec=codec,
            conditioner=conditioner,
            network=network,
            process=Gaussian(RectifiedFlow()),
            preconditioner=Data(1.0),
            sampling=Sampling(steps=20, sampler="dpmpp-2m", grid="shifted", guidance=3.0, interval=(0.1, 1.0)),
            about=About("stickers", data.account(), CREDITS, PROMPTS[:3]),
        ),
        objective=Denoising(SquaredError(VelocityWeight(smallest=0.05)), LowDiscrepancy(Mixture(LogitNormal(0.8, 1.0)))),
        train=TrainConfig(
            steps=steps,
            batch=batch,
            seed=options.seed,
            optimiser=options.optimiser(AdamWConfig(options.lr or 1e-3, (0.9, 0.95))),
            warmup=min(500, steps // 10),
            decay=LinearDecay(start=0.7),
            checkpoint_every=max(1, min(1000, steps // 4)),
            snapshot_every=steps,  # the last: `unnoise average RUN --width 0.05 --bf16` makes what ships of it
            sample_every=max(250, steps // 24),
        ),
        preview=Preview(PROMPTS, n=3, seed=options.seed),
        words=words,
    )


def _first(opened: OpenPictures, source: PictureSource, options: Options) -> AutoencoderRun:
    """Flat colours and sharp edges are learnt from pixels and slopes alone."""
    factor = factor_of(opened.pictures, options)
    run = autoencoder_run(
        opened,
        source,
        Options(seed=options.seed, compression=factor, batch=32, steps=CODEC_SAMPLES // 32),
        KLConfig(latent_channels(factor), weight=1e-3),
    )
    return replace(run, losses=ReconstructionLosses(features=0.0, turned=0.25, halved=0.125))


ICONS_BY = (
    "Delapouite, Lorc, Skoll, Viscious Speed, Caro Asercion, Sbed, badges, Aussiesim, DarkZaitzev, Cathelineau, Quoting, "
    "Faithtoken, Lord Berandas, PriorBlue, Carl Olsen, Felbrigg, Lucas, seregacthtuf, Willdabeast, Guard13007, John Redman, "
    "Kier Heyl, Pierre Leducq, Andy Meneely, GeneralAce135, Rihlsul, Zajkonur, Zeromancer, Catsu, HeavenlyDog, Irongamer, "
    "John Colburn, Pepijn Poolman, Sparker, SpencerDub, Starseeker and others"
)
_BY = "https://creativecommons.org/licenses/by"
CREDITS = (
    "weights Apache-2.0; learnt from drawings that were made smaller: Noto Emoji (Google, Apache-2.0), Twemoji (Twitter, Inc. and "
    f"other contributors, CC BY 4.0, {_BY}/4.0/), Fluent Emoji (Microsoft, MIT), icons of https://game-icons.net (by {ICONS_BY}; "
    f"CC BY 3.0, {_BY}/3.0/, some CC0), names and keywords of Unicode CLDR (Unicode License v3); text encoder distilled from "
    "all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0)"
)

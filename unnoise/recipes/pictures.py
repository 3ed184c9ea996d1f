"""Recipes for pictures. Each is a function (what was read, how to read it again, options) -> the whole run.

pictures  a diffusion transformer on about 64 patches that predicts the picture itself, rectified flow (JiT, 2511.13720): the
          default; on a processor's few cores nothing else that we measured learns as much in an hour
unet      the same with a convolutional U-Net: finer texture, three times slower
ddpm      after Ho et al. 2020 (2006.11239): 35.7M-parameter U-Net, 1000 discrete betas, noise prediction, L_simple; not theirs are
          times between the steps, the log-SNR told in place of the step, the learning rate's decay and averages of two widths
edm       Karras et al. 2022 (2206.00364): U-Net, sigma as time, its preconditioning, weight and log-normal noise levels
edm2      Karras et al. 2024 (2312.02696): edm with the magnitude-preserving U-Net, whose weights cannot grow, and the scale of the
          loss at every noise level learned along
"""

import math
from dataclasses import dataclass, replace

from unnoise.checkpoints.card import About
from unnoise.control.sampling import Sampling
from unnoise.core.codec import Buildable, UnconditionalConfig
from unnoise.core.coupling import Independent, OptimalTransport
from unnoise.core.errors import InputError, option
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising, DenoisingTwice, PerSample
from unnoise.core.preconditioning import EDM as EDMPreconditioner
from unnoise.core.preconditioning import Affine, Data, Noise
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import EDM, DiscreteVP, RectifiedFlow, Schedule
from unnoise.core.times import LogitNormal, LogNormalSigma, LowDiscrepancy, Times, UniformTimes
from unnoise.core.weights import EDMWeight, Simple, VelocityWeight, Weight
from unnoise.modalities.conditioning import LabelsConfig, TextConfig
from unnoise.modalities.image.data import PictureData
from unnoise.modalities.image.sizes import SizedNamesConfig, SizedWordsConfig
from unnoise.modalities.words.emphasis import EmphaticConfig
from unnoise.modalities.words.spelling import SpelledConfig
from unnoise.modalities.words.syntax import escaped
from unnoise.model import ModelConfig
from unnoise.networks.mp_unet import MPUNetConfig
from unnoise.networks.text import TextEncoderConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.networks.unet import UNetConfig, ddpm_cifar10
from unnoise.recipes.options import Options
from unnoise.recipes.run import Preview, Run, spread
from unnoise.recipes.sources import OpenPictures, PictureSource
from unnoise.recipes.text_encoders import GivenWords, Words, given_words, words_of
from unnoise.training.config import AdamWConfig, InverseSqrtDecay, LinearDecay, TrainConfig

_SIZE_DIM = 64  # of the vector: what is told of a picture's size


@dataclass(frozen=True)
class Told:
    """How a network is told what to draw: the conditioner and the widths of what it says; and a distilled encoder."""

    conditioner: Buildable
    vector_dim: int
    token_dim: int
    words: GivenWords | None = None


@dataclass(frozen=True)
class Diffusion:
    """What a recipe chooses beside the network."""

    schedule: Schedule
    preconditioner: Affine
    weight: Weight
    times: Times
    sampling: Sampling


def pictures(opened: OpenPictures, source: PictureSource, options: Options) -> Run:
    run = plain(opened, source, options)
    assert isinstance(run.objective, Denoising)
    model, objective = with_middle_head(run.model, run.objective, options)
    return replace(run, model=told_sizes(model, opened.pictures), objective=objective)


def plain(opened: OpenPictures, source: PictureSource, options: Options) -> Run:
    """The recipe `pictures` with one head and told no sizes: what others build upon."""
    data = opened.pictures
    told = _told(data, options)
    side = max(data.height, data.width)
    large = side >= 48 and len(data) >= 10_000  # what a larger network would learn more from
    network = DiffusionTransformerConfig(
        channels=data.channels,
        patch=max(1, math.ceil(side / 8)),
        width=options.width or (256 if large else 192),
        depth=options.depth or (8 if large else 6),
        heads=4,
        bottleneck=128,
        vector_dim=told.vector_dim,
        token_dim=told.token_dim,
    )
    diffusion = Diffusion(
        schedule=RectifiedFlow(),
        preconditioner=Data(data.data_std()),
        weight=VelocityWeight(smallest=0.05),
        times=LowDiscrepancy(LogitNormal(mean=_noise_bias(side), std=0.9)),
        sampling=Sampling(steps=25, sampler="dpmpp-2m", guidance=_guidance(data)),
    )
    return _run(data, source, options, told, network, diffusion, AdamWConfig(options.lr or 1e-3, (0.9, 0.95)))


def unet(opened: OpenPictures, source: PictureSource, options: Options) -> Run:
    data = opened.pictures
    told = _told(data, options)
    side, levels = max(data.height, data.width), _levels(data)
    network = UNetConfig(
        channels=data.channels,
        width=options.width or 64,
        multipliers=(1, 2, 3, 4)[:levels],
        blocks=options.depth or 2,
        attention=(levels - 1,),
        words=(levels - 1,) if told.token_dim else (),
        vector_dim=told.vector_dim,
        token_dim=told.token_dim,
    )
    diffusion = Diffusion(
        schedule=RectifiedFlow(),
        preconditioner=EDMPreconditioner(data.data_std()),
        weight=EDMWeight(data.data_std()),
        times=LowDiscrepancy(LogitNormal(mean=_noise_bias(side), std=1.0)),
        sampling=Sampling(steps=25, sampler="dpmpp-2m", guidance=_guidance(data)),
    )
    run = _run(data, source, options, told, network, diffusion, AdamWConfig(options.lr or 4e-4, (0.9, 0.99)))
    return replace(run, model=told_sizes(run.model, data))


def ddpm(opened: OpenPictures, source: PictureSource, options: Options) -> Run:
    data = opened.pictures
    told = _told(data, options)
    network = replace(
        ddpm_cifar10(),
        channels=data.channels,
        width=options.width or 128,
        blocks=options.depth or 2,
        words=(2, 3) if told.token_dim else (),
        vector_dim=told.vector_dim,
        token_dim=told.token_dim,
    )
    diffusion = Diffusion(
        schedule=DiscreteVP(),
        preconditioner=Noise(data.data_std()),
        weight=Simple(),
        times=UniformTimes(),
        sampling=Sampling(steps=1000, sampler="ddpm", guidance=_guidance(data)),
    )
    return _run(data, source, options, told, network, diffusion, AdamWConfig(options.lr or 2e-4, (0.9, 0.999)))


def edm(opened: OpenPictures, source: PictureSource, options: Options) -> Run:
    run = unet(opened, source, options)
    std = opened.pictures.data_std()
    return replace(
        run,
        model=replace(
            run.model,
            process=Gaussian(EDM()),
            preconditioner=EDMPreconditioner(std),
            sampling=replace(run.model.sampling, steps=18, sampler="heun"),
        ),
        objective=_objective(EDMWeight(std), LogNormalSigma(-1.2, 1.2), options),
    )


def edm2(opened: OpenPictures, source: PictureSource, options: Options) -> Run:
    """InputError for captions of free text, which this network is not told."""
    data = opened.pictures
    if any(data.captions) and not data.classes:
        raise InputError(
            f"{source.path}: recipe 'edm2' is told classes, and these pictures have captions of free text; take recipe 'unet'"
        )
    run, levels = edm(opened, source, options), _levels(data)
    told = Told(LabelsConfig(data.classes, 192), 192, 0) if data.classes else Told(UnconditionalConfig(), 0, 0)
    network = MPUNetConfig(
        channels=data.channels,
        width=options.width or 64,
        multipliers=(1, 2, 3, 4)[:levels],
        blocks=options.depth or 2,
        attention=(levels - 1,),
        vector_dim=told.vector_dim,
    )
    decay = InverseSqrtDecay(after=max(1, run.train.steps // 4))
    optimiser = options.optimiser(AdamWConfig(options.lr or 1e-2, (0.9, 0.99)))
    return replace(
        run,
        model=replace(run.model, network=network, conditioner=told.conditioner),
        objective=_objective(EDMWeight(data.data_std()), LogNormalSigma(-0.4, 1.0), options),
        train=replace(run.train, optimiser=optimiser, decay=decay),
        learned_uncertainty=True,
    )


def _run(
    data: PictureData,
    source: PictureSource,
    options: Options,
    told: Told,
    network: Buildable,
    diffusion: Diffusion,
    optimiser: AdamWConfig,
) -> Run:
    batch = options.batch or min(64, len(data))
    seen = min(max(30 * len(data), 60_000), 160_000)  # pictures: more for larger sets, in an hour's reach of two plain cores
    steps = options.steps if options.steps is not None else math.ceil(seen / batch)
    captions = sorted({c for several in data.captions for c in several})
    prompts = spread(data.classes, 16) if data.classes else spread(captions, 16)
    if isinstance(told.conditioner, EmphaticConfig):
        prompts = tuple(map(escaped, prompts))
    return Run(
        data=source,
        model=ModelConfig(
            codec=data.codec(),
            conditioner=told.conditioner,
            network=network,
            process=Gaussian(diffusion.schedule),
            preconditioner=diffusion.preconditioner,
            sampling=diffusion.sampling,
            about=About(
                name=source.name(),
                data=f"{len(data):,} pictures of {data.width} x {data.height} from {source.name()}",
                examples=prompts[:3],
            ),
        ),
        objective=_objective(diffusion.weight, diffusion.times, options),
        train=TrainConfig(
            steps=steps,
            batch=batch,
            seed=options.seed,
            optimiser=options.optimiser(optimiser),
            warmup=min(200, steps // 10),
            decay=LinearDecay(start=0.6),
            checkpoint_every=max(1, min(500, steps // 4)),
            snapshot_every=max(1, steps // 16),
            sample_every=max(250, steps // 8),
        ),
        preview=Preview(prompts, n=max(1, 32 // max(1, len(prompts))), seed=options.seed),
        words=told.words,
    )


def with_middle_head(model: ModelConfig, objective: Denoising, options: Options) -> tuple[ModelConfig, PerSample]:
    """Network and objective, with a head after half of the blocks if internal guidance is to have one. InputError for one block."""
    if not options.internal_guidance:
        return model, objective
    network = model.network
    assert isinstance(network, DiffusionTransformerConfig)
    if network.depth < 2:
        raise InputError("--internal-guidance: a head in the middle of the network needs --depth 2 at least")
    return replace(model, network=replace(network, head_at=network.depth // 2)), DenoisingTwice(objective)


def told_sizes(model: ModelConfig, data: PictureData) -> ModelConfig:
    """The model, told of every picture how large it was, where the data says something worth telling."""
    network, inner = model.network, model.conditioner
    if data.sizes is None:
        return model
    assert isinstance(network, DiffusionTransformerConfig | UNetConfig)
    sized: Buildable
    if isinstance(inner, EmphaticConfig):
        sized = SizedWordsConfig(inner, _SIZE_DIM, data.height, data.width)
    else:
        sized = SizedNamesConfig(inner, _SIZE_DIM, data.height, data.width)
    return replace(model, conditioner=sized, network=replace(network, vector_dim=network.vector_dim + _SIZE_DIM))


def _objective(weight: Weight, times: Times, options: Options) -> Denoising:
    return Denoising(SquaredError(weight), times, OptimalTransport() if options.transport else Independent())


def _told(data: PictureData, options: Options) -> Told:
    """Words where there are any (class names are words too), class numbers where there are only numbers."""
    captions = {c for several in data.captions for c in several}
    if (data.classes and all(c.isdigit() for c in data.classes)) or not captions:
        for name in ("spelling", "text_encoder"):
            if getattr(options, name):
                raise InputError(f"{option(name)}: nothing is said of these pictures in words; leave it out")
        return Told(LabelsConfig(data.classes, 192), 192, 0) if data.classes else Told(UnconditionalConfig(), 0, 0)
    given = None
    if options.text_encoder is not None:
        words = words_of(options.text_encoder)
        given = given_words(options.text_encoder)
    else:
        encoder = TextEncoderConfig(width=192, depth=1 if data.classes else 3, heads=3)
        words = Words(TextConfig.of(captions, encoder), encoder.width, encoder.width)
    if options.spelling:
        words = words._replace(conditioner=SpelledConfig.of(captions, words.conditioner, words.token_dim))
    return Told(*words, given)


def _levels(data: PictureData) -> int:
    """Resolutions of a U-Net, each half of the last: of pictures of 8, 28, 80 and 256 pixels the smallest has 4, 7, 20 and 32."""
    side = max(data.height, data.width)
    return 2 if side < 24 else 3 if side < 96 else 4


def _guidance(data: PictureData) -> float:
    """Classes are learnt surely, and more guidance only makes their pictures alike; free text needs it to be followed."""
    if not any(data.captions):
        return 1.0
    return 1.5 if data.classes else 2.5


def _noise_bias(side: int) -> float:
    """Mean of the logit of the training time: larger pictures need more noise to hide as much (Hoogeboom et al. 2023)."""
    return 0.4 * math.log2(max(side, 16) / 16) / 2

"""Latent diffusion (Rombach et al. 2022, 2112.10752): an autoencoder, then a transformer on its latents, in one run.

    RUN/words/               a text encoder, where one is to be distilled first
    RUN/autoencoder/         what the first stage's training keeps; or a copy of the codec that was given (--codec)
    RUN/latents.safetensors  what the codec makes of the pictures, once
    RUN/                     the second stage, as of any diffusion model; its model has the codec inside
Every stage goes on from where it stands.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from unnoise.checkpoints.codec import load_codec, save_codec
from unnoise.core.errors import InputError
from unnoise.core.objectives import Denoising, PerSample
from unnoise.core.preconditioning import Data
from unnoise.core.times import LogitNormal, LowDiscrepancy, Mixture
from unnoise.loading import load
from unnoise.modalities.image.data import PictureData
from unnoise.modalities.image.latents import Latents, LatentsConfig
from unnoise.model import DiffusionModel, ModelConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.recipes.autoencoder import AutoencoderRun, autoencoder
from unnoise.recipes.distil_text import DistilRun
from unnoise.recipes.latent_cache import cached_latents
from unnoise.recipes.options import Options
from unnoise.recipes.pictures import plain, told_sizes, with_middle_head
from unnoise.recipes.run import AnyRun, Interrupted, Preview, Run, averaged_denoiser, first_process, fit_denoiser
from unnoise.recipes.sources import Opened, OpenPictures, PictureSource
from unnoise.recipes.text_encoders import GivenWords
from unnoise.training.config import TrainConfig
from unnoise.training.distributed import device, join

WORDS, FIRST, CACHE = "words", "autoencoder", "latents.safetensors"


@dataclass(frozen=True)
class GivenCodec:
    """A codec that was trained before: where it lay, and the hash of its weights."""

    path: str
    hash: str


@dataclass(frozen=True)
class LatentRun(AnyRun):
    """Everything about the training of a latent diffusion model; `first` about its codec, whose data is this run's."""

    data: PictureSource
    first: AutoencoderRun | GivenCodec
    model: ModelConfig
    objective: PerSample
    train: TrainConfig
    preview: Preview = Preview()
    checkpointing: bool = False
    """Keep only the inputs of the network's blocks for the backward pass: less memory, a third more time."""
    words: str | GivenWords | DistilRun | None = None
    """The distilled text encoder that the model is told by, a folder alone in runs of earlier versions; or the training of it; None
    where it has none."""
    begin_with: str | None = None
    """The model whose weights it begins with; None for fresh ones."""

    def __post_init__(self) -> None:
        if isinstance(self.first, AutoencoderRun) and self.first.codec != self.model.codec:
            raise InputError(
                "the model's codec is not its first stage's; train another by --recipe autoencoder, and give it by --codec"
            )

    def fit(self, opened: Opened, out: Path, resume: bool) -> DiffusionModel:
        assert isinstance(opened, OpenPictures)
        self._learn_words(opened, out)
        codec, kept = self._codec(opened, out), opened.kept()
        if first_process():
            cached_latents(codec.to(device()), kept, opened.fingerprint(), out / CACHE)
        join(device()).any(False)  # all wait until they are written
        states = cached_latents(codec.cpu(), kept, opened.fingerprint(), out / CACHE)
        again = resume and (out / "checkpoints").exists()
        return fit_denoiser(
            self._second(out),
            self._build(codec),
            lambda m: replace(kept.training(m.codec, m.conditioner), states=states),
            opened,
            out,
            again,
        )

    def averaged(self, out: Path, width: float, step: int | None = None) -> DiffusionModel:
        return averaged_denoiser(self._second(out), self._build(load_codec(out / FIRST)), out, width, step)

    def _second(self, out: Path) -> Run:
        words = str(out / WORDS / "model") if isinstance(self.words, DistilRun) else self.words
        return Run(
            self.data, self.model, self.objective, self.train, self.preview, False, self.checkpointing, words, self.begin_with
        )

    def _learn_words(self, opened: Opened, out: Path) -> None:
        """The text encoder's training, as far as it is still needed."""
        place = out / WORDS
        if isinstance(self.words, DistilRun) and not ((place / "model").exists() and (out / CACHE).exists()):
            self._stage(self.words, "text encoder", opened, place, out)

    def _stage(self, run: DistilRun | AutoencoderRun, name: str, opened: Opened, place: Path, out: Path) -> Any:
        try:
            return replace(run, data=self.data).fit(opened, place, resume=(place / "checkpoints").exists())
        except Interrupted as e:
            raise Interrupted(f"in the {name}, {e.args[0].partition(';')[0]}; `unnoise resume {out}` goes on") from None

    def _build(self, codec: Latents) -> Callable[[], DiffusionModel]:
        def build() -> DiffusionModel:
            model = self.model.build()
            model.codec.load_state_dict(codec.state_dict())
            return model

        return build

    def _codec(self, opened: OpenPictures, out: Path) -> Latents:
        """The first stage's, trained as far as is still needed, or the given one's copy in this run."""
        place = out / FIRST
        if (out / CACHE).exists():  # made only once the codec was finished
            return load_codec(place)
        if isinstance(self.first, GivenCodec):
            if first_process() and not (place / "model").exists():
                codec = _given(self.first)
                save_codec(codec, place / "model", f"# A copy of the codec {self.first.path}\n\nWeights {codec.hash()[:16]}.\n")
            join(device()).any(False)
            return load_codec(place)
        return self._stage(self.first, "first stage", opened, place, out)


def codec_at(path: str) -> Latents:
    """The codec in its own folder or run, or that of a latent model. InputError where there is none."""
    try:
        return load_codec(path)
    except InputError as e:
        try:
            codec = load(path).codec
        except InputError:
            raise e from None
        if not isinstance(codec, Latents):
            raise InputError(f"{path}: this model's codec is {type(codec).__name__}, no autoencoder's") from None
        return codec


def _given(codec: GivenCodec) -> Latents:
    found = codec_at(codec.path)
    if found.hash() != codec.hash:
        raise InputError(
            f"{codec.path}: its weights are {found.hash()[:16]}, and this run was planned with {codec.hash[:16]}; "
            "bring that codec back, or start another run"
        )
    return found


def latent(opened: OpenPictures, source: PictureSource, options: Options) -> LatentRun:
    """A transformer on at most about 16 x 16 patches of latents, told what the recipe `pictures` tells."""
    run = plain(opened, source, options)
    whole = {f.name for f in fields(Options)} & {"seed", "background", "flip", "alpha", "compression"}
    own = Options(**{k: getattr(options, k) for k in whole})
    config, first = first_stage(opened, options, lambda: autoencoder(opened, source, own))
    side = max(config.build().shape()[1:])
    assert isinstance(run.model.network, DiffusionTransformerConfig)
    assert isinstance(run.objective, Denoising)
    network = replace(run.model.network, channels=config.latent_channels, patch=max(1, -(-side // 16)))
    model = replace(run.model, codec=config, network=network, preconditioner=Data(1.0))
    times = LowDiscrepancy(Mixture(LogitNormal(0.0, 1.0)))
    model, objective = with_middle_head(model, replace(run.objective, times=times), options)
    return LatentRun(
        data=source,
        first=first,
        model=told_sizes(model, opened.pictures),
        objective=objective,
        train=run.train,
        preview=run.preview,
        words=run.words,
    )


def latent_unet(opened: OpenPictures, source: PictureSource, options: Options) -> LatentRun:
    """As `latent`, by Stable Diffusion's U-Net: two levels, words heard by cross-attention in both (width: of the finer one; depth:
    residual blocks a level)."""
    run, width = latent(opened, source, options), options.width or 128
    known = _transformer(run)
    network = SDUNetConfig(
        channels=known.channels,
        widths=(width, 2 * width),
        blocks=options.depth or 2,
        depths=(1, 1),
        heads=(math.gcd(width, max(1, width // 32)), math.gcd(2 * width, max(1, width // 16))),
        vector_dim=known.vector_dim,
        token_dim=max(1, known.token_dim),
        groups=math.gcd(width, 32),
        features=known.features,
    )
    return replace(run, model=replace(run.model, network=network))


def latent_joint(opened: OpenPictures, source: PictureSource, options: Options) -> LatentRun:
    """As `latent`, by Stable Diffusion 3's transformer, in which words and patches attend to each other."""
    run = latent(opened, source, options)
    known, codec = _transformer(run), run.model.codec
    assert isinstance(codec, LatentsConfig)
    patches = -(-max(codec.build().shape()[1:]) // known.patch)
    network = SD3Config(
        channels=known.channels,
        patch=known.patch,
        width=known.width,
        depth=known.depth,
        heads=known.heads,
        vector_dim=known.vector_dim,
        token_dim=max(1, known.token_dim),
        norm_qk=True,
        positions=4 * patches,  # for other shapes
        unit=patches,
        features=known.features,
    )
    return replace(run, model=replace(run.model, network=network))


def _transformer(run: LatentRun) -> DiffusionTransformerConfig:
    assert isinstance(run.model.network, DiffusionTransformerConfig)
    return run.model.network


def first_stage(
    opened: OpenPictures, options: Options, train: Callable[[], AutoencoderRun]
) -> tuple[LatentsConfig, AutoencoderRun | GivenCodec]:
    """The codec that the options name, or the one to be trained. InputError for one of other pictures."""
    if options.codec is None:
        run = train()
        return run.codec, run
    codec = codec_at(options.codec)
    _refuse(codec.config, opened.pictures, options.codec)
    return codec.config, GivenCodec(str(options.codec), codec.hash())


def _refuse(config: LatentsConfig, data: PictureData, path: str) -> None:
    if config.channels != data.channels:
        kinds = {1: "grey", 3: "colour", 4: "colour and transparency (--alpha)"}
        raise InputError(f"codec {path} is for pictures of {kinds[config.channels]}, and these have {kinds[data.channels]}")
    if (config.height, config.width) != (data.height, data.width):
        raise InputError(
            f"codec {path} is for {config.width} x {config.height} pixels, and these pictures have {data.width} x {data.height}: "
            f"read them with --size {config.width}, or train another codec"
        )

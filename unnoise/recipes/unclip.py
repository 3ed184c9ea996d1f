"""unCLIP (Ramesh et al. 2022, "DALL-E 2", 2204.06125): first what is to be seen, then how it looks.

    prior      p(u | words)             recipe `unclip-prior`: diffusion over the embedding u of a picture
    decoder    p(picture | u, words)    recipe `unclip-decoder`: the `pictures` recipe, told u as a vector too
    unnoise sample PRIOR "a red apple" --then DECODER           (`cascade.go_on` chains them; an enlarger may follow)

u is what a retrieval network sees in a picture: one that was trained apart (--embedder), or is trained first, in RUN/embedder;
prior and decoder must have the same. As in section 2.2 the prior tells the clean embedding from the noisy one, by its plain squared
error, under the cosine schedule. Its network is the transformer over sets, of one row: where unCLIP's causal transformer has words,
time and noisy embedding in one sequence, here the words are further keys and values, and the time modulates. Where unCLIP draws two
embeddings and keeps the one nearer to the words, here one is drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from unnoise.core.errors import InputError
from unnoise.core.losses import SquaredError
from unnoise.core.objectives import Denoising, PerSample
from unnoise.core.preconditioning import Data
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import Cosine
from unnoise.core.times import LowDiscrepancy, UniformTimes
from unnoise.core.weights import DataWeight
from unnoise.evaluation.retrieval import Retrieval, load_retrieval
from unnoise.loading import load
from unnoise.modalities.image.embeddings import Embedded, EmbeddedConfig, Embeddings, EmbeddingsConfig
from unnoise.model import DiffusionModel, ModelConfig
from unnoise.networks.contrastive import PictureTowerConfig
from unnoise.networks.sets import SetTransformerConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.recipes.options import Options
from unnoise.recipes.pictures import plain
from unnoise.recipes.retrieval import RetrievalRun, retrieval
from unnoise.recipes.run import AnyRun, Interrupted, Preview, Run, averaged_denoiser, fit_denoiser
from unnoise.recipes.sources import Opened, OpenPictures, PictureSource
from unnoise.recipes.text_encoders import GivenWords
from unnoise.training.config import TrainConfig

FIRST = "embedder"
_DIM = 192  # of the vector that the decoder is told


@dataclass(frozen=True)
class GivenEmbedder:
    """The retrieval network whose picture tower is used: where it lay, and the hash of its weights."""

    path: str
    hash: str

    def load(self) -> Retrieval:
        """InputError if it is not what it was."""
        found = load_retrieval(self.path)
        if found.hash != self.hash:
            raise InputError(
                f"{self.path}: its weights are {found.hash}, and this run was planned with {self.hash}; bring that network back, "
                "or start another run"
            )
        return found


@dataclass(frozen=True)
class EmbeddedRun(AnyRun):
    """Everything about the training of a prior or a decoder. The tower's weights go into the model that is saved."""

    data: PictureSource
    embedder: RetrievalRun | GivenEmbedder
    model: ModelConfig
    objective: PerSample
    train: TrainConfig
    preview: Preview = Preview()
    words: str | GivenWords | None = None
    """The distilled text encoder that the model is told by, a folder alone in runs of earlier versions; None where it has none."""

    def afterwards(self, out: Path) -> str:
        prior = isinstance(self.model.codec, EmbeddingsConfig)
        return f"draw with: unnoise sample {out if prior else 'PRIOR'} PROMPT --then {'DECODER' if prior else out}"

    def fit(self, opened: Opened, out: Path, resume: bool) -> DiffusionModel:
        again = resume and (out / "checkpoints").exists()
        build = self._build(self._embedder(opened, out))
        return fit_denoiser(self._plain(), build, lambda m: opened.training(m.codec, m.conditioner), opened, out, again)

    def averaged(self, out: Path, width: float, step: int | None = None) -> DiffusionModel:
        return averaged_denoiser(self._plain(), lambda: load(out), out, width, step)

    def _plain(self) -> Run:
        return Run(self.data, self.model, self.objective, self.train, self.preview, words=self.words)

    def _embedder(self, opened: Opened, out: Path) -> Retrieval:
        """The given network, or the one of this run, trained as far as is still needed."""
        if isinstance(self.embedder, GivenEmbedder):
            return self.embedder.load()
        place = out / FIRST
        if (out / "checkpoints").exists():  # begun only once the embedder was finished
            return load_retrieval(place)
        try:
            return self.embedder.fit(opened, place, resume=(place / "checkpoints").exists())
        except Interrupted as e:
            raise Interrupted(f"in the first stage, {e.args[0].partition(';')[0]}; `unnoise resume {out}` goes on") from None

    def _build(self, embedder: Retrieval) -> Callable[[], DiffusionModel]:
        def build() -> DiffusionModel:
            model = self.model.build()
            for end in (model.codec, model.conditioner):
                if isinstance(end, Embeddings | Embedded):
                    end.look.tower.load_state_dict(embedder.network.picture.state_dict())
            return model

        return build


def unclip_prior(opened: OpenPictures, source: PictureSource, options: Options) -> EmbeddedRun:
    """InputError for pictures of which nothing is said."""
    run, (embedder, tower) = plain(opened, source, options), _embedder(opened, source, options)
    told = run.model.network
    assert isinstance(told, DiffusionTransformerConfig)
    if not any(opened.pictures.captions):
        raise InputError(f"{source.path}: recipe 'unclip-prior' learns what words look like, and nothing is said of these pictures")
    network = SetTransformerConfig(
        tower.dim, options.width or 256, options.depth or 6, vector_dim=told.vector_dim, token_dim=told.token_dim
    )
    model = replace(
        run.model,
        codec=EmbeddingsConfig(tower),
        network=network,
        process=Gaussian(Cosine()),
        preconditioner=Data(1.0),
        sampling=replace(run.model.sampling, guidance=1.5),
    )
    objective = Denoising(SquaredError(DataWeight()), LowDiscrepancy(UniformTimes()))
    nothing = Preview(n=0)  # embeddings are not looked at
    return EmbeddedRun(source, embedder, model, objective, run.train, nothing, run.words)


def unclip_decoder(opened: OpenPictures, source: PictureSource, options: Options) -> EmbeddedRun:
    run, (embedder, tower) = plain(opened, source, options), _embedder(opened, source, options)
    network = run.model.network
    assert isinstance(network, DiffusionTransformerConfig)
    conditioner = EmbeddedConfig(run.model.conditioner, tower, _DIM, network.vector_dim)
    model = replace(run.model, conditioner=conditioner, network=replace(network, vector_dim=_DIM))
    return EmbeddedRun(source, embedder, model, run.objective, run.train, run.preview, run.words)


def _embedder(
    opened: OpenPictures, source: PictureSource, options: Options
) -> tuple[RetrievalRun | GivenEmbedder, PictureTowerConfig]:
    if options.embedder is not None:
        found = load_retrieval(options.embedder)
        return GivenEmbedder(options.embedder, found.hash), found.network.config.picture
    first = retrieval(opened, source, Options(seed=options.seed))
    return first, first.network.picture

"""A run's file: what the run is, and the fingerprint of its data. The one place that knows every kind of run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unnoise.checkpoints.config import allow, decode, encode
from unnoise.checkpoints.folder import VERSION, read_json
from unnoise.checkpoints.foreign.telling import lend_again
from unnoise.core import bound, coupling, losses, objectives, times, weights
from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.evaluation.retrieval import RETRIEVAL_CLASSES
from unnoise.loading import MODEL_CLASSES
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.recaption import Recaption
from unnoise.recipes.autoencoder import AutoencoderRun, ReconstructionLosses
from unnoise.recipes.distil_text import DistilRun
from unnoise.recipes.latent import GivenCodec, LatentRun
from unnoise.recipes.retrieval import RetrievalRun
from unnoise.recipes.run import AnyRun, Preview, Run
from unnoise.recipes.sources import PictureSource, TableSource
from unnoise.recipes.text_encoders import GivenWords
from unnoise.recipes.unclip import EmbeddedRun, GivenEmbedder
from unnoise.training import config as training

RUN_FILE = "run.json"
RUN_CLASSES = RETRIEVAL_CLASSES | allow(
    Run, AutoencoderRun, ReconstructionLosses, LatentRun, GivenCodec, RetrievalRun, EmbeddedRun, GivenEmbedder, DistilRun,
    GivenWords, Preview, PictureSource, PictureOptions, Recaption, TableSource,
    training.TrainConfig, training.AdamWConfig, training.MuonConfig, training.Constant, training.CosineDecay,
    training.InverseSqrtDecay, training.LinearDecay, training.GuardConfig,
    objectives.Denoising, objectives.DenoisingTwice, objectives.SlicedScoreMatching, bound.VariationalBound, bound.Levels,
    coupling.Independent, coupling.OptimalTransport,
    losses.SquaredError, losses.CrossEntropy, losses.CategoricalBound, losses.TangentError, losses.FieldLosses,
    times.UniformTimes, times.LogitNormal, times.LogNormalSigma, times.Mixture, times.LowDiscrepancy,
    weights.DataWeight, weights.Simple, weights.VWeight, weights.VelocityWeight, weights.EDMWeight, weights.TruncatedSNR,
    weights.MinSNR, weights.SigmoidWeight, weights.Likelihood,
)  # fmt: skip
"""What a run's file may name, beside what a model's configuration may."""


def save_run(run: AnyRun, out: Path, fingerprint: str, asked: Mapping[str, Any] | None = None) -> None:
    """Write the run's file into the folder `out`. asked: the recipe and the options that it was planned with, as far as given."""
    document = {"unnoise": VERSION, "data": fingerprint, "run": encode(run)} | ({} if asked is None else {"asked": dict(asked)})
    with atomically(out / RUN_FILE) as partial:
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # as JSON writes half surrogates, of paths


def asked_of(out: Path) -> Mapping[str, Any] | None:
    """What `save_run` was told that the run in the folder `out` was planned with; None of runs of earlier versions."""
    asked = read_json(out / RUN_FILE).get("asked")
    return asked if isinstance(asked, dict) else None


def load_run(out: Path) -> tuple[AnyRun, str]:
    """The run in the folder `out` and the fingerprint of its data. InputError for what is not a run."""
    file = out / RUN_FILE
    if not file.is_file():
        raise InputError(f"{out}: not a training run (it has no {file.name}); `unnoise train DATA --out {out}` starts one")
    document = read_json(file)
    if not isinstance(document, dict) or not {"unnoise", "data", "run"} <= set(document):
        raise InputError(f"{file}: not the description of an unnoise run")
    if not isinstance(document["unnoise"], int) or document["unnoise"] > VERSION:
        raise InputError(f"{file}: format version {document['unnoise']!r}; this unnoise reads up to {VERSION}: upgrade unnoise")
    run = decode(AnyRun, document["run"], {**MODEL_CLASSES, **RUN_CLASSES}, f"{file}: run")
    lend_again(getattr(run, "model", None))
    return run, document["data"]

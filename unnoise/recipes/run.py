"""A run: one frozen value that says everything about a training, from the data to the sheets that are drawn on the way."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from unnoise.checkpoints.config import allow, decode, encode
from unnoise.checkpoints.folder import VERSION, read_json
from unnoise.core import bound, coupling, losses, objectives, times, weights
from unnoise.core.errors import InputError
from unnoise.core.objectives import PerSample
from unnoise.modalities.image.data import PictureOptions
from unnoise.model import MODEL_CLASSES, ModelConfig
from unnoise.recipes.sources import PictureSource, TableSource
from unnoise.training.config import (
    AdamWConfig,
    Constant,
    CosineDecay,
    GuardConfig,
    InverseSqrtDecay,
    LinearDecay,
    MuonConfig,
    TrainConfig,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Preview:
    """What is drawn while training: n samples for every prompt (unconditional ones where there are none)."""

    prompts: tuple[str, ...] = ()
    n: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Run:
    """Everything about a training."""

    data: PictureSource | TableSource
    model: ModelConfig
    objective: PerSample
    train: TrainConfig
    preview: Preview = Preview()
    learned_uncertainty: bool = False
    """Learn the scale of the loss at every noise level along (EDM2)."""
    checkpointing: bool = False
    """Keep only the inputs of the network's blocks for the backward pass: less memory, a third more time."""

    def save(self, file: Path, fingerprint: str) -> None:
        document = {"unnoise": VERSION, "data": fingerprint, "run": encode(self)}
        partial = file.with_name(file.name + ".partial")
        partial.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(file)

    @staticmethod
    def load(file: Path) -> tuple["Run", str]:
        """The run and the fingerprint of its data. InputError for what is not a run."""
        if not file.is_file():
            raise InputError(
                f"{file.parent}: not a training run (it has no {file.name}); `unnoise train DATA --out {file.parent}` starts one"
            )
        document = read_json(file)
        if not isinstance(document, dict) or not {"unnoise", "data", "run"} <= set(document):
            raise InputError(f"{file}: not the description of an unnoise run")
        if not isinstance(document["unnoise"], int) or document["unnoise"] > VERSION:
            raise InputError(f"{file}: format version {document['unnoise']!r}; this unnoise reads up to {VERSION}: upgrade unnoise")
        return decode(Run, document["run"], {**MODEL_CLASSES, **RUN_CLASSES}, f"{file}: run"), document["data"]


RUN_CLASSES = allow(
    Run, Preview, PictureSource, PictureOptions, TableSource,
    TrainConfig, AdamWConfig, MuonConfig, Constant, CosineDecay, InverseSqrtDecay, LinearDecay, GuardConfig,
    objectives.Denoising, objectives.SlicedScoreMatching, bound.VariationalBound, bound.Levels,
    coupling.Independent, coupling.OptimalTransport,
    losses.SquaredError, losses.CrossEntropy, losses.CategoricalBound, losses.TangentError, losses.FieldLosses,
    times.UniformTimes, times.LogitNormal, times.LogNormalSigma, times.LowDiscrepancy,
    weights.DataWeight, weights.Simple, weights.VWeight, weights.VelocityWeight, weights.EDMWeight, weights.TruncatedSNR,
    weights.MinSNR, weights.SigmoidWeight, weights.Likelihood,
)  # fmt: skip
"""What a run's file may name, beside what a model's configuration may."""


def spread(items: Sequence[T], n: int) -> tuple[T, ...]:
    """At most n of the items, evenly spread."""
    return tuple(items[i * len(items) // n] for i in range(n)) if len(items) > n else tuple(items)

"""A run: one frozen value that says everything about a training, from the data to the sheets that are drawn on the way.

A run's folder, beside what the training loop keeps there (see `training.loop`):

    run.json    this value, and the fingerprint of the data (see `runs`)
    samples/    sheets drawn on the way
    model/      what was trained, once it is
"""

import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from unnoise.checkpoints.folder import load_weights
from unnoise.control.sampling import Samples
from unnoise.core.codec import Following
from unnoise.core.errors import InputError
from unnoise.core.objectives import LearnedUncertainty, PerSample
from unnoise.loading import load
from unnoise.modalities.image.enlarging import EnlargingConfig
from unnoise.modalities.words.emphasis import Emphatic
from unnoise.modalities.words.syntax import escaped
from unnoise.model import DiffusionModel, ModelConfig
from unnoise.recipes.sources import Opened, OpenPictures, PictureSource, TableSource
from unnoise.recipes.task import DenoisingTask
from unnoise.recipes.text_encoders import GivenWords, fill, learn_by_heart
from unnoise.training.config import TrainConfig
from unnoise.training.data import DataSet
from unnoise.training.distributed import device
from unnoise.training.ema import reconstruct
from unnoise.training.loop import fit, measure_step_seconds
from unnoise.training.task import Task

T = TypeVar("T")
_BY_HEART = 100_000  # pictures whose captions a frozen text encoder reads before the training; of more, as they come


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and has saved where it stands."""


@dataclass(frozen=True)
class Preview:
    """What is drawn while training: n samples for every prompt (unconditional ones where there are none); nothing if n is 0."""

    prompts: tuple[str, ...] = ()
    n: int = 16
    seed: int = 0


class AnyRun(ABC):
    """Everything about a training, whatever is trained; a frozen dataclass, which the run's file holds."""

    data: PictureSource | TableSource
    train: TrainConfig
    preview: Preview

    @abstractmethod
    def fit(self, opened: Opened, out: Path, resume: bool) -> Any:
        """Train in the folder `out`, or go on there; returns what was trained, which also lies in out/model. Raises Interrupted."""

    def afterwards(self, out: Path) -> str:
        """What may be typed once it is done."""
        asked = shlex.join([str(out), *self.preview.prompts[:1]])
        return f"draw with: unnoise sample {asked} -n 16 --out samples"

    def averaged(self, out: Path, width: float, step: int | None = None) -> DiffusionModel:
        """The model of the run in `out` with averaged weights of any relative width. InputError if it has none."""
        raise InputError(f"{out}: this run trains no diffusion model; averages of other widths can be rebuilt of those alone")


@dataclass(frozen=True)
class Run(AnyRun):
    """Everything about the training of a diffusion model."""

    data: PictureSource | TableSource
    model: ModelConfig
    objective: PerSample
    train: TrainConfig
    preview: Preview = Preview()
    learned_uncertainty: bool = False
    """Learn the scale of the loss at every noise level along (EDM2)."""
    checkpointing: bool = False
    """Keep only the inputs of the network's blocks for the backward pass: less memory, a third more time."""
    words: str | GivenWords | None = None
    """The distilled text encoder that the model is told by, a folder alone in runs of earlier versions; None where it has none."""
    begin_with: str | None = None
    """The model whose weights it begins with; None for fresh ones."""

    def fit(self, opened: Opened, out: Path, resume: bool) -> DiffusionModel:
        return fit_denoiser(self, self.model.build, lambda m: opened.training(m.codec, m.conditioner), opened, out, resume)

    def afterwards(self, out: Path) -> str:
        if isinstance(self.model.conditioner, EnlargingConfig):
            return f"enlarge what another model makes: unnoise sample MODEL --then {out} --out samples"
        return super().afterwards(out)

    def averaged(self, out: Path, width: float, step: int | None = None) -> DiffusionModel:
        return averaged_denoiser(self, self.model.build, out, width, step)

    def task(self, build: Callable[[], DiffusionModel]) -> tuple[DiffusionModel, DenoisingTask]:
        """A model with its first weights, and the task that trains it."""
        torch.manual_seed(self.train.seed)
        model = build()
        if self.begin_with is None:
            fill(model.conditioner, self.words)
        else:
            load_weights(model.parts, load(self.begin_with).parts.state_dict(), Path(self.begin_with))
        objective = LearnedUncertainty(self.objective) if self.learned_uncertainty else self.objective
        return model, DenoisingTask(model, objective, self.checkpointing)


def fit_denoiser(
    run: Run,
    build: Callable[[], DiffusionModel],
    training: Callable[[DiffusionModel], DataSet],
    opened: Opened,
    out: Path,
    resume: bool,
) -> DiffusionModel:
    """Train the denoiser and the conditioner of the model that `build` makes, on what `training` makes of the data for it."""
    model, task = run.task(build)
    task.to(device())
    if isinstance(opened, OpenPictures) and len(opened.pictures) <= _BY_HEART:
        learn_by_heart(model.conditioner, {c for several in opened.pictures.captions for c in several}, out, first_process())
    data = training(model)
    if first_process() and not resume:
        print(account(run.train, opened, type(run.model.network).__name__.removesuffix("Config"), task, data), flush=True)
    hooks = [_Sheets(run.train.sample_every, build(), run.preview, opened, out)] if run.preview.n else []
    result = fit(task, data, run.train, out, hooks, resume)
    if not first_process():
        return model
    finished = build()
    task.weights_for(finished, result.ema[run.train.ema_widths[-1]])
    last = _sheet(out, result.steps)
    finished.save(out / "model", sheet=last if last.exists() else None)
    say_what_was_skipped(opened)
    if result.interrupted:
        raise interrupted(result.steps, run.train, out)
    return load(out / "model")


def averaged_denoiser(
    run: Run, build: Callable[[], DiffusionModel], out: Path, width: float, step: int | None = None
) -> DiffusionModel:
    model, task = run.task(build)
    task.weights_for(model, reconstruct(out, width, step))
    return model


@dataclass
class _Sheets:
    """The hook that draws samples while training."""

    every: int
    model: DiffusionModel
    preview: Preview
    opened: Opened
    out: Path

    def __call__(self, step: int, task_with_ema_weights: Task) -> None:
        if isinstance(task_with_ema_weights, DenoisingTask):
            task_with_ema_weights.weights_for(self.model)
        self.opened.preview(preview_samples(self.model, self.preview, self.opened), sheet_file(self.out, step))


def preview_samples(model: DiffusionModel, preview: Preview, opened: Opened) -> Samples:
    """As many samples as are asked for; of a model that goes on from another, from what that would have made of real rows."""
    if isinstance(model.conditioner, Following):
        told, given = opened.before(model.conditioner, preview.n * max(1, len(preview.prompts)), preview.seed)
        if isinstance(model.conditioner, Emphatic):
            told = [t if t is None else escaped(t) for t in told]
        return model.sample(told, seed=preview.seed, given=given, captions=True)
    return model.sample(list(preview.prompts) or None, preview.n, preview.seed, captions=True)


def sheet_file(out: Path, step: int) -> Path:
    """Where the sheet of this step goes, in a folder that is there."""
    (out / "samples").mkdir(parents=True, exist_ok=True)
    return _sheet(out, step)


def _sheet(out: Path, step: int) -> Path:
    return out / "samples" / f"step-{step:08d}.png"


def account(train: TrainConfig, opened: Opened, network: str, task: Task, data: DataSet) -> str:
    """One short paragraph: what was found, what was chosen, how long it should take."""
    parameters = sum(p.numel() for p in task.parameters() if p.requires_grad)
    seconds = measure_step_seconds(task, data, train)
    epochs = train.steps * train.batch / len(data)
    return (
        f"{opened.account()} Training a {network} of {parameters / 1e6:.1f}M parameters, "
        f"{train.steps:,} steps of {train.batch} ({epochs:.0f} times through the data) at {1 / seconds:.1f} steps/s: "
        f"about {_duration(seconds * train.steps)} here."
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def say_what_was_skipped(opened: Opened) -> None:
    if skipped := opened.skipped():
        print(f"{len(skipped):,} files were skipped:\n" + "\n".join(f"  {line}" for line in skipped), flush=True)


def interrupted(steps: int, train: TrainConfig, out: Path) -> Interrupted:
    return Interrupted(f"stopped after {steps:,} of {train.steps:,} steps; `unnoise resume {out}` goes on")


def first_process() -> bool:
    """Whether this is the first (or only) process of a run: the one that speaks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def spread(items: Sequence[T], n: int) -> tuple[T, ...]:
    """At most n of the items, evenly spread."""
    return tuple(items[i * len(items) // n] for i in range(n)) if len(items) > n else tuple(items)

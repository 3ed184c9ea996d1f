"""From data to a saved model: plan a run with a recipe, say what was chosen, train, save; or go on after an interruption."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unnoise.core.errors import InputError
from unnoise.core.objectives import LearnedUncertainty
from unnoise.modalities.image.data import InMemory, PictureData, PictureOptions
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.table.columns import Categorical, Table
from unnoise.modalities.table.data import TableData
from unnoise.model import DiffusionModel, Samples, load
from unnoise.recipes.options import Options
from unnoise.recipes.pictures import ddpm, edm, edm2, pictures, unet
from unnoise.recipes.run import Preview, Run
from unnoise.recipes.sources import Opened, OpenPictures, OpenTable, PictureSource, TableSource, source_of
from unnoise.recipes.tables import tables
from unnoise.recipes.task import DenoisingTask
from unnoise.training.distributed import device
from unnoise.training.ema import reconstruct
from unnoise.training.loop import fit, measure_step_seconds
from unnoise.training.task import Task

RECIPES: Mapping[str, Callable[[Any, Any, Options], Run]] = {
    "pictures": pictures,
    "unet": unet,
    "ddpm": ddpm,
    "edm": edm,
    "edm2": edm2,
    "tables": tables,
}
RUN_FILE = "run.json"


@dataclass(frozen=True)
class Plan:
    """A recipe's name, what it decided, and the data, read."""

    recipe: str
    run: Run
    opened: Opened


def plan(data: str, options: Options = Options(), recipe: str | None = None) -> Plan:
    """Read the data and let a recipe decide the rest. Raises InputError for data, options or a recipe that cannot be right."""
    if recipe is not None and recipe not in RECIPES:
        raise _no_recipe(recipe)
    for name in ("steps", "batch", "width", "depth"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")
    source = source_of(data, PictureOptions(size=options.size, background=options.background, flip=options.flip), options.condition)
    is_picture = isinstance(source, PictureSource)
    name = recipe or ("pictures" if is_picture else "tables")
    if (name == "tables") == is_picture:
        raise InputError(f"recipe {name!r} does not fit {data}, which is {'a set of pictures' if is_picture else 'a table'}")
    opened = source.open(progress=first_process())
    return Plan(name, RECIPES[name](opened, source, options), opened)


def override(planned: Plan, options: Options, change: Callable[[Run], Run]) -> Plan:
    """The plan with single fields changed; data that is to be read in another way is read again, and the recipe asked again."""
    changed = change(planned.run)
    if changed.data == planned.run.data:
        return replace(planned, run=changed)
    opened = changed.data.open(progress=first_process())
    return Plan(planned.recipe, change(RECIPES[planned.recipe](opened, changed.data, options)), opened)


def example_run(recipe: str | None) -> Run:
    """What a recipe makes of 1000 small captioned pictures (or of a small table): for its list of fields."""
    name = recipe or "pictures"
    if name not in RECIPES:
        raise _no_recipe(name)
    if name == "tables":
        columns = (Categorical("column", ("a", "b")),)
        rows = Table.parse(columns, [["a"], ["b"]] * 500)
        return tables(
            OpenTable(TableData("table.csv", TableCodecConfig(columns), rows), TableSource("table.csv")),
            TableSource("table.csv"),
            Options(),
        )
    pixels = InMemory(np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8))
    names, captions = tuple(map(str, range(1000))), (("a caption",),) * 1000
    classes = ("a caption",) if name == "edm2" else None  # it is told nothing else
    data = PictureData(pixels, 32, 32, 3, names, captions, classes, (), ())
    return RECIPES[name](OpenPictures(data), PictureSource("pictures"), Options())


def _no_recipe(name: str) -> InputError:
    near = get_close_matches(name, RECIPES, n=2)
    return InputError(
        f"there is no recipe {name!r}; {'did you mean ' + ' or '.join(near) if near else 'there are ' + ', '.join(RECIPES)}"
    )


def train(
    data: str | Path,
    out: str | Path | None = None,
    *,
    recipe: str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> DiffusionModel:
    """Train a model on `data`, as the command `unnoise train` does; `options` are the fields of `Options`.

    out: the run's folder (runs/NAME by default). Returns the trained model, which also lies in out/model.
    """
    known = {f.name for f in fields(Options)}
    if unknown := sorted(set(options) - known):
        raise InputError(f"train has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
    folder = Path(out) if out is not None else Path("runs") / Path(data).stem
    refuse_run(folder, overwrite)
    planned = plan(str(data), Options(**options), recipe)
    return start(planned, folder)


def step_seconds(planned: Plan) -> float:
    """Seconds that one optimiser step of the plan takes here, as measured."""
    model, task = _task(planned.run)
    return measure_step_seconds(task, planned.opened.training(model.codec, model.conditioner), planned.run.train)


def refuse_run(out: Path, overwrite: bool) -> None:
    """InputError if `out` has something in it; with `overwrite`, if that is anything but an earlier run."""
    if not first_process() or not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise InputError(f"{out} is a file; --out wants a folder")
    if not overwrite:
        raise InputError(
            f"{out} exists and is not empty: choose another --out, go on with `unnoise resume {out}`, or say --overwrite"
        )
    if not (out / RUN_FILE).is_file():
        raise InputError(f"{out} is not a training run; --overwrite replaces runs only: choose another --out")


def start(planned: Plan, out: Path) -> DiffusionModel:
    """Train a planned run in the folder `out`, which is made (an earlier run there is replaced)."""
    run, first = planned.run, first_process()
    if first:
        _clear(out)
        out.mkdir(parents=True, exist_ok=True)
        run.save(out / RUN_FILE, planned.opened.fingerprint())
    return _fit(run, planned.opened, out, resume=False)


def _clear(out: Path) -> None:
    """Remove an earlier run; `refuse_run` has made sure that it may go."""
    if (out / RUN_FILE).is_file():
        shutil.rmtree(out)


def resume(out: str | Path, progress: bool = True) -> DiffusionModel:
    """Go on with the run in `out`. Raises InputError if that is no run, or its data has changed since."""
    out = Path(out)
    run, fingerprint = Run.load(out / RUN_FILE)
    opened = run.data.open(progress=progress)
    if opened.fingerprint() != fingerprint:
        raise InputError(f"{run.data.path} has changed since {out} was started; bring the old data back, or start another run")
    return _fit(run, opened, out, resume=True)


def average(out: str | Path, width: float) -> DiffusionModel:
    """The model of a run with averaged weights of any relative width, rebuilt after training from the run's snapshots."""
    run, _ = Run.load(Path(out) / RUN_FILE)
    model, task = _task(run)
    task.weights_for(model, reconstruct(Path(out), width))
    return model


def _task(run: Run) -> tuple[DiffusionModel, DenoisingTask]:
    torch.manual_seed(run.train.seed)
    model = run.model.build()
    objective = LearnedUncertainty(run.objective) if run.learned_uncertainty else run.objective
    return model, DenoisingTask(model, objective, run.checkpointing)


def _fit(run: Run, opened: Opened, out: Path, resume: bool) -> DiffusionModel:
    model, task = _task(run)
    task.to(device())
    data = opened.training(model.codec, model.conditioner)
    if first_process() and not resume:
        print(_account(run, opened, task, data), flush=True)
    hook = _Sheets(run.train.sample_every, run.model.build(), run.preview, opened, out)
    result = fit(task, data, run.train, out, [hook], resume)
    if not first_process():
        return model
    finished = run.model.build()
    task.weights_for(finished, result.ema[run.train.ema_widths[-1]])
    finished.save(out / "model")
    if skipped := opened.skipped():
        print(f"{len(skipped):,} files were skipped:\n" + "\n".join(f"  {line}" for line in skipped), flush=True)
    if result.interrupted:
        raise Interrupted(f"stopped after {result.steps:,} of {run.train.steps:,} steps; `unnoise resume {out}` goes on")
    return load(out / "model")


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and has saved where it stands."""


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
        self.opened.preview(preview_samples(self.model, self.preview), _made(self.out / "samples") / f"step-{step:08d}.png")


def preview_samples(model: DiffusionModel, preview: Preview) -> Samples:
    return model.sample(list(preview.prompts) or None, preview.n, preview.seed)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _account(run: Run, opened: Opened, task: DenoisingTask, data: Any) -> str:
    """One short paragraph: what was found, what was chosen, how long it should take."""
    train = run.train
    parameters = sum(p.numel() for p in task.parameters())
    seconds = measure_step_seconds(task, data, train)
    epochs = train.steps * train.batch / len(data)
    network = type(run.model.network).__name__.removesuffix("Config")
    return (
        f"{opened.account()} Training a {network} of {parameters / 1e6:.1f}M parameters, "
        f"{train.steps:,} steps of {train.batch} ({epochs:.0f} times through the data) at {1 / seconds:.1f} steps/s: "
        f"about {_duration(seconds * train.steps)} here."
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def first_process() -> bool:
    """Whether this is the first (or only) process of a run: the one that speaks and writes."""
    return int(os.environ.get("RANK", "0")) == 0

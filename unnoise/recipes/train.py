"""From data to a saved model: plan a run with a recipe, say what was chosen, train, save; or go on after an interruption."""

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from unnoise.checkpoints.config import encode
from unnoise.core.errors import InputError, nearest, option
from unnoise.loading import load
from unnoise.modalities.image.data import InMemory, PictureData, PictureOptions
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.image.recaption import Recaption
from unnoise.modalities.image.scenes.source import WORD as SCENES
from unnoise.modalities.image.scenes.source import are_scenes, read_scenes
from unnoise.modalities.image.sticker_set import are_stickers
from unnoise.modalities.image.transparency import transparent_anywhere
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.modalities.table.columns import Categorical, Table
from unnoise.modalities.table.data import TableData
from unnoise.model import DiffusionModel
from unnoise.recipes.autoencoder import autoencoder, autoencoder_fsq, autoencoder_vq
from unnoise.recipes.cascade import super_resolution
from unnoise.recipes.distil_text import distil_text
from unnoise.recipes.latent import GivenCodec, LatentRun, codec_at, latent, latent_joint, latent_unet
from unnoise.recipes.options import Options
from unnoise.recipes.pictures import ddpm, edm, edm2, pictures, unet
from unnoise.recipes.retrieval import retrieval
from unnoise.recipes.run import AnyRun, Run, first_process
from unnoise.recipes.runs import RUN_FILE, asked_of, load_run, save_run
from unnoise.recipes.scenes import scenes
from unnoise.recipes.sources import Opened, OpenPictures, OpenTable, PictureSource, Source, TableSource, source_of, unchanged
from unnoise.recipes.stickers import stickers
from unnoise.recipes.tables import tables
from unnoise.recipes.unclip import unclip_decoder, unclip_prior
from unnoise.training.config import MuonConfig
from unnoise.training.loop import measure_step_seconds

RECIPES: Mapping[str, Callable[[Any, Any, Options], AnyRun]] = {
    "pictures": pictures,
    "unet": unet,
    "ddpm": ddpm,
    "edm": edm,
    "edm2": edm2,
    "scenes": scenes,
    "super-resolution": super_resolution,
    "unclip-prior": unclip_prior,
    "unclip-decoder": unclip_decoder,
    "retrieval": retrieval,
    "distil-text": distil_text,
    "latent": latent,
    "latent-unet": latent_unet,
    "latent-joint": latent_joint,
    "stickers": stickers,
    "autoencoder": autoencoder,
    "autoencoder-vq": autoencoder_vq,
    "autoencoder-fsq": autoencoder_fsq,
    "tables": tables,
}
FITS: Mapping[str, type[Source]] = {"tables": TableSource}
"""Recipes for other data than pictures. The first that fits is what such data is trained with where no recipe is named."""
LATENT = ("latent", "latent-unet", "latent-joint")
AUTOENCODERS = ("autoencoder", "autoencoder-vq", "autoencoder-fsq")
BUCKETED = ("pictures", "unet", "ddpm", "edm", "edm2", *LATENT)
"""Recipes whose batches may each be of another shape."""
_READING = ("pictures", "unet", "ddpm", "edm", *LATENT)
_UNCLIP = ("unclip-prior", "unclip-decoder")
TAKEN_BY: Mapping[str, tuple[str, ...]] = {
    "internal_guidance": ("pictures", "latent"),
    "spelling": _READING,
    "text_encoder": (*_READING, *_UNCLIP, "stickers", "distil-text"),
    "codec": (*LATENT, "stickers"),
    "compression": (*AUTOENCODERS, *LATENT, "stickers"),
    "transport": ("pictures", "unet", "ddpm", "edm", "edm2", *LATENT, "unclip-decoder"),
    "embedder": _UNCLIP,
    "factor": ("super-resolution",),
    "condition": ("tables",),
    "depth": tuple(r for r in RECIPES if r != "retrieval"),
}
"""Options that all other recipes refuse, so that nobody waits for what does not come."""
_OF_PICTURES = ("size", "background", "alpha", "buckets", "flip", "recaption", "weights")
_TOGETHER = (
    ("codec", "begin_with"), ("codec", "compression"),
    *(("begin_with", theirs) for theirs in ("width", "depth", "text_encoder", "spelling", "compression")),
)  # fmt: skip
"""Of each two the first has decided what the second asks for; with --begin-with the model has."""


@dataclass(frozen=True)
class Plan:
    """A recipe's name, what it decided, the data, read, and what it was asked for."""

    recipe: str
    run: AnyRun
    opened: Opened
    options: Options = Options()

    def asked(self) -> dict[str, Any]:
        """What a run keeps of it, to know when it is asked for another."""
        return {"recipe": self.recipe, **{name: encode(value) for name, value in _given(self.options).items()}}


def plan(data: str, options: Options = Options(), recipe: str | None = None) -> Plan:
    """Read the data and let a recipe decide the rest. Raises InputError for data, options or a recipe that cannot be right."""
    if recipe is not None and recipe not in RECIPES:
        raise _no_recipe(recipe)
    for name in ("steps", "batch", "width", "depth"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} {value}: must be at least 1")
    if options.lr is not None and not 0 < options.lr < math.inf:
        raise InputError(f"--lr {options.lr:g}: must be above 0; recipes take 2e-4 to 1e-2")
    if options.alpha is False and are_stickers(data):
        raise InputError("--no-alpha: stickers are transparent; leave it out")
    source = source_of(
        data,
        PictureOptions(
            size=options.size,
            background=options.background or PictureOptions().background,
            alpha=options.alpha is True,
            buckets=options.buckets,
            flip=options.flip,
            recaption=Recaption() if options.recaption else None,
            weights=options.weights,
        ),
        options.condition,
    )
    fitting = (name for name, kind in FITS.items() if isinstance(source, kind))
    name = recipe or next(fitting, "stickers" if are_stickers(data) else "pictures")
    if not isinstance(source, FITS.get(name, PictureSource)):
        raise InputError(f"recipe {name!r} does not fit {data}, which is {source.called}")
    _check_options(name, options)
    asked = options
    if options.buckets is not None and name not in BUCKETED:
        raise InputError(f"--buckets: recipe {name!r} takes data of one size; those that take several are {', '.join(BUCKETED)}")
    if name in LATENT and options.codec is None:  # that of the model which it goes on from
        options = replace(options, codec=options.begin_with)
    if options.buckets is not None and name in LATENT and options.codec is None:
        raise InputError(
            "--buckets: a codec is trained on pictures of one size; train it first (--recipe autoencoder), then --codec"
        )
    if isinstance(source, PictureSource) and options.alpha is None and _keeps_transparency(name, data, options):
        source = replace(source, options=replace(source.options, alpha=True))
    opened = source.open(progress=first_process())
    return Plan(name, _asked(name, opened, source, options), opened, asked)


def _given(options: Options) -> dict[str, Any]:
    """The options that are not as they usually are."""
    usual = Options()
    return {f.name: v for f in fields(Options) if (v := getattr(options, f.name)) != getattr(usual, f.name)}


def _keeps_transparency(recipe: str, data: str, options: Options) -> bool:
    """Where nothing is said of it: what goes through codes keeps it where there is any, as far as a codec can; a background is to
    be seen."""
    if recipe not in (*LATENT, *AUTOENCODERS) or are_scenes(data) or options.background is not None:
        return False
    if options.codec is not None:
        return codec_at(options.codec).config.channels == 4
    return are_stickers(data) or transparent_anywhere(data)


def _check_options(recipe: str, options: Options) -> None:
    """InputError for options that the recipe would not look at."""
    given = _given(options)
    for name in given:
        if recipe in FITS and name in _OF_PICTURES:
            raise InputError(f"{option(name)}: for pictures; recipe {recipe!r} has none")
        if recipe not in (takers := TAKEN_BY.get(name, (recipe,))):
            raise InputError(f"{option(name)}: not for recipe {recipe!r}; those that take it are {', '.join(takers)}")
    for first, second in _TOGETHER:
        if first in given and second in given:
            raise InputError(
                f"{option(first)} and {option(second)}: the one brings what the other asks for along; give one of them"
            )


@contextmanager
def _settings_that_can_be() -> Iterator[None]:
    """What configurations refuse (ValueError), as a line for who gave the options."""
    try:
        yield
    except InputError:
        raise
    except ValueError as e:
        raise InputError(f"these settings cannot be: {e}") from None


def _asked(name: str, opened: Opened, source: Any, options: Options) -> AnyRun:
    with _settings_that_can_be():
        run = RECIPES[name](opened, source, options)
    return run if options.begin_with is None else begun(run, options.begin_with)


def begun(run: AnyRun, begin_with: str) -> AnyRun:
    """The run, with the network and codec of the model `begin_with`, whose weights it goes on from.

    InputError for runs that train no diffusion model, and for a model of other data.
    """
    if not isinstance(run, Run | LatentRun):
        raise InputError(f"--begin-with {begin_with}: this recipe trains no diffusion model to go on from another")
    model = load(begin_with)
    theirs, ours = _size(model.config.codec), _size(run.model.codec)
    if theirs != ours:
        raise InputError(f"--begin-with {begin_with}: that model makes {theirs}, and this data is {ours}; read it as that was")
    parts = {part: getattr(model.config, part) for part in ("codec", "conditioner", "network", "process", "preconditioner")}
    config = replace(run.model, **parts)
    if isinstance(run, LatentRun):
        assert isinstance(model.codec, Latents)
        return replace(run, model=config, first=GivenCodec(begin_with, model.codec.hash()), words=None, begin_with=begin_with)
    return replace(run, model=config, words=None, begin_with=begin_with)


def _size(codec: Any) -> str:
    """What of a codec data must fit: the pictures' size, or all of it."""
    size = [f"{name} {getattr(codec, name)}" for name in ("height", "width", "channels") if hasattr(codec, name)]
    return f"{type(codec).__name__.removesuffix('Config')} of {', '.join(size)}" if size else repr(codec)


def override(planned: Plan, options: Options, change: Callable[[AnyRun], AnyRun]) -> Plan:
    """The plan with single fields changed; data that is to be read in another way is read again, and the recipe asked again."""
    with _settings_that_can_be():
        changed = change(planned.run)
    if changed.data == planned.run.data:
        return replace(planned, run=changed)
    opened = changed.data.open(progress=first_process())
    return Plan(planned.recipe, change(_asked(planned.recipe, opened, changed.data, options)), opened, options)


def example_run(recipe: str | None) -> AnyRun:
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
    if name == "scenes":
        return scenes(OpenPictures(read_scenes(SCENES)), PictureSource(SCENES), Options())
    channels = 4 if name == "stickers" else 3
    pixels = InMemory(np.random.default_rng(0).integers(0, 256, (1000, 32, 32, channels), dtype=np.uint8))
    names, captions = tuple(map(str, range(1000))), (("a caption",), ("another one",)) * 500
    classes = ("a caption", "another one") if name == "edm2" else None  # it is told nothing else
    data = PictureData(pixels, 32, 32, channels, names, captions, classes, (), ())
    return RECIPES[name](OpenPictures(data), PictureSource("pictures"), Options())


def _no_recipe(name: str) -> InputError:
    near = nearest(name, RECIPES, 2)
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
) -> Any:
    """Train a model on `data`, as the command `unnoise train` does; `options` are the fields of `Options`.

    out: the run's folder (runs/NAME by default). Returns what was trained, which also lies in out/model: a DiffusionModel, unless
    the recipe trains another thing. Raises InputError for data, options and recipes that cannot be right, and for an `out` that
    holds something.
    """
    known = {f.name for f in fields(Options)}
    if unknown := sorted(set(options) - known):
        raise InputError(f"train has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
    folder = Path(out) if out is not None else usual_folder(str(data))
    refuse_run(folder, overwrite)
    planned = plan(str(data), Options(**options), recipe)
    return start(planned, folder)


def step_seconds(planned: Plan) -> float:
    """Seconds that one optimiser step of a diffusion model's plan takes here, as measured. InputError for plans of other things."""
    run = planned.run
    if not isinstance(run, Run):
        raise InputError(f"recipe {planned.recipe!r} trains more than one thing, or no diffusion model: it has no one step to time")
    model, task = run.task(run.model.build)
    return measure_step_seconds(task, planned.opened.training(model.codec, model.conditioner), run.train)


def usual_folder(data: str) -> Path:
    """Where a run on this data lies, if nothing else is said."""
    return Path("runs") / (Path(data).stem or Path(data).resolve().name).partition(":")[0]


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


def start(planned: Plan, out: Path) -> Any:
    """Train a planned run in the folder `out`, which is made (an earlier run there is replaced)."""
    run, first = planned.run, first_process()
    if first:
        _clear(out)
        out.mkdir(parents=True, exist_ok=True)
        save_run(run, out, planned.opened.fingerprint(), planned.asked())
    return run.fit(planned.opened, out, resume=False)


def _clear(out: Path) -> None:
    """Remove an earlier run; `refuse_run` has made sure that it may go."""
    if (out / RUN_FILE).is_file():
        shutil.rmtree(out)


def check_again(out: Path, data: str, options: Options, recipe: str | None = None) -> AnyRun:
    """The run in `out`. InputError where it was started with other data, another recipe, or otherwise than the given options say.

    Runs of earlier versions do not say all that they were started with; what cannot be known of them is passed over.
    """
    run, _ = load_run(out)
    before = run.data.path
    if not _alike(data, before):
        raise InputError(f"{out} is a run on {before}, not on {data}; choose another --out, or leave --resume out")
    asked = asked_of(out)
    given = _given(options) | ({} if recipe is None else {"recipe": recipe})
    for name, value in given.items():
        had = asked[name] if asked and name in asked else _decided(run, name)  # a dotted option may have had the last word
        if had is None:
            if asked is None:
                continue
            had = getattr(Options(), name, None)
        if not _alike(value, had):
            started = "was started without it" if had is None or had is False or had == {} else f"has {had}"
            said = option(name) if value is True else f"{option(name)} {value}"
            raise InputError(f"{said}: the run in {out} {started}; it goes on as it was started")
    return run


def _decided(run: AnyRun, name: str) -> Any:
    """What the run has in place of an option, given or not; None where its file does not say."""
    network: Any = getattr(getattr(run, "model", None), "network", None)
    read = getattr(run.data, "options", None)
    if name in ("steps", "batch", "seed"):
        return getattr(run.train, name)
    if name == "lr":
        return getattr(run.train.optimiser, name, None)
    if name == "depth" and hasattr(network, "blocks"):
        return network.blocks
    if name in ("width", "depth"):
        return getattr(network, name, None)
    if name == "muon":
        return isinstance(run.train.optimiser, MuonConfig)
    if name == "recaption":
        return getattr(read, name, None) is not None
    if name == "begin_with":
        return getattr(run, name, None)
    return getattr(run.data if name == "condition" else read, name, None)


def _alike(a: Any, b: Any) -> bool:
    """Whether two options say the same; places may be written in two ways."""
    return a == b or (isinstance(a, str) and isinstance(b, str) and Path(a).resolve() == Path(b).resolve())


def resume(out: str | Path, progress: bool = True) -> Any:
    """Go on with the run in `out`. Raises InputError if that is no run, or its data has changed since."""
    out = Path(out)
    run, fingerprint = load_run(out)
    opened = run.data.open(progress=progress)
    if not unchanged(fingerprint, opened.fingerprint()):
        raise InputError(f"{run.data.path} has changed since {out} was started; bring the old data back, or start another run")
    return run.fit(opened, out, resume=True)


def average(out: str | Path, width: float, step: int | None = None) -> DiffusionModel:
    """The model of a run with averaged weights of any relative width, rebuilt after training from the run's snapshots.

    step: as it was at the last snapshot up to this step, by default the last of all. Raises InputError if none is that early.
    """
    run, _ = load_run(Path(out))
    return run.averaged(Path(out), width, step)

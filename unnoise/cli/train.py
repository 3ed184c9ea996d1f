"""unnoise train DATA --out RUN: train a model, with good defaults; typed options override anything."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unnoise.cli.terminal import parse, parse_known
from unnoise.core.errors import InputError
from unnoise.recipes.options import Options
from unnoise.recipes.run import AnyRun
from unnoise.recipes.train import check_again, example_run, first_process, override, plan, refuse_run, start, usual_folder
from unnoise.recipes.train import resume as go_on

OWN_DATA = ("scenes", "stickers")
"""Recipes whose data has the same name."""


@dataclass(frozen=True)
class Train(Options):
    """Train a model on a folder, zip or npz of pictures, or on a csv table. What it is, and good settings, are found out and said.

    Every field of the run can be given as a dotted option: --train.batch 32, --model.process.schedule.shift 3 ...
    """

    alpha: Annotated[bool | None, tyro.conf.arg(constructor=bool)] = None
    """Keep transparency of pictures, instead of laying them over the background. Not given: in latent models and autoencoders,
    unless a background is."""
    data: tyro.conf.Positional[Path | None] = None
    """A folder of pictures (sub-folders are class names; name.txt beside name.png is its caption; or metadata.jsonl/.csv), a zip of
    such, an npz of images with labels, or a csv table; or the word `scenes`, for captioned scenes without end, or
    `stickers:FOLDER`, for emoji, icons and compositions of them. Recipes of those names need no data."""
    out: Path | None = None
    """The run's folder. Not given: runs/ and the name of the data."""
    recipe: str | None = None
    """A whole run by name: pictures (the default for pictures), unet, ddpm, edm, edm2; scenes, stickers; latent, latent-unet,
    latent-joint; autoencoder, autoencoder-vq, autoencoder-fsq; super-resolution, unclip-prior, unclip-decoder; retrieval,
    distil-text; tables (the default for tables)."""
    resume: bool = False
    """Go on with the run in --out if there is one."""
    overwrite: bool = False
    """Replace an earlier run in --out."""


def run(argv: list[str]) -> None:
    if "-h" in argv or "--help" in argv:
        _help(argv)
        return
    args, rest = parse_known(Train, argv, "unnoise train")
    data = args.recipe if args.data is None and args.recipe in OWN_DATA else args.data
    if data is None:
        raise InputError("unnoise train: name the data, such as a folder of pictures or a csv table")
    out = args.out or usual_folder(str(data))
    options = Options(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Options)})
    if args.resume and (out / "run.json").is_file():
        before = check_again(out, str(data), options, args.recipe)
        if rest and _changed(rest, before) != before:
            raise InputError(f"{' '.join(rest)}: the run in {out} goes on as it was started, otherwise; leave that out")
        go_on(out)
        print(f"the model is in {out / 'model'}")
        return
    refuse_run(out, args.overwrite)
    planned = plan(str(data), options, args.recipe)
    if rest:
        planned = override(planned, options, lambda run: _changed(rest, run))
    start(planned, out)
    if not first_process():
        return
    print(f"the model is in {out / 'model'}; {planned.run.afterwards(out)}")


def _changed(rest: list[str], run: AnyRun) -> AnyRun:
    """The run with its fields as dotted options say."""
    return parse(tyro.conf.AvoidSubcommands[type(run)], rest, "unnoise train", run)  # type: ignore[misc]  # known when run


def _help(argv: list[str]) -> None:
    """The short options, then every field of the run that the recipe makes."""
    recipe = argv[argv.index("--recipe") + 1] if "--recipe" in argv[:-1] else None
    try:
        tyro.cli(Train, args=["--help"], prog="unnoise train")
    except SystemExit:
        print(f"\nEvery field of a run, as the recipe {recipe or 'pictures'!r} sets it for 1000 small pictures with captions:\n")
    run = example_run(recipe)
    tyro.cli(tyro.conf.AvoidSubcommands[type(run)], args=["--help"], prog="unnoise train DATA", default=run)  # type: ignore[misc]  # known when run

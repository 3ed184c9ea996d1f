"""unnoise evaluate MODEL --data DATA: measure a model, or samples, against real data, and write a report."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unnoise.checkpoints.shipped import shipped_folder
from unnoise.cli.terminal import parse, refuse_existing
from unnoise.core.errors import InputError
from unnoise.evaluation.report import to_text
from unnoise.recipes.evaluate import evaluate
from unnoise.recipes.sections import Options


@dataclass(frozen=True)
class Evaluate(Options):
    """Measure a model, or samples that lie in a folder, zip, npz or csv, against real data: distances with intervals and p-values,
    features, likelihood, usefulness, control, memorisation, fairness; beside each what real data gets against real data."""

    subject: tyro.conf.Positional[Path] = dataclasses.field(default=tyro.MISSING)
    """A model folder, a training run's folder, the name of a model that ships, or samples."""
    data: Path = dataclasses.field(default=tyro.MISSING)
    """The real data, as `unnoise train` reads it."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 2000
    """Samples to draw from a model; of given samples, the most that are used."""
    out: Path | None = None
    """The report's folder (report.html, report.json, what can be used again). Not given: evaluations/ and the subject's name."""
    overwrite: bool = False
    """Write into a folder that exists; samples and feature networks there that fit are used again."""


def run(argv: list[str]) -> None:
    args = parse(Evaluate, argv, "unnoise evaluate")
    if not args.subject.exists() and shipped_folder(str(args.subject)) is None:
        given = "a model folder, a training run's folder, the name of a model that ships, or samples"
        raise InputError(f"{args.subject} does not exist; give {given}")
    out = args.out or Path("evaluations") / (args.subject.name or args.subject.resolve().name)
    unfinished = out.is_dir() and not (out / "report.json").exists()  # an interrupted one goes on
    refuse_existing(out, args.overwrite or unfinished)
    options = Options(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Options)})
    print(to_text(evaluate(args.subject, args.data, out, options)))
    print(f"\nthe report is {out / 'report.html'}; its figures are in report.json")

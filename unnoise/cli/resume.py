"""unnoise resume RUN: go on with a training run after any interruption."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from unnoise.cli.terminal import parse
from unnoise.recipes.train import first_process, resume


@dataclass(frozen=True)
class Resume:
    """Go on with a training run after any interruption; a finished one is left as it is."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""


def run(argv: list[str]) -> None:
    folder = parse(Resume, argv, "unnoise resume").run
    resume(folder)
    if first_process():
        print(f"the model is in {folder / 'model'}")

"""unnoise demo: train on real handwritten digits and draw everything."""

from dataclasses import dataclass
from pathlib import Path

from unnoise.cli.terminal import parse
from unnoise.recipes.demo import demo


@dataclass(frozen=True)
class Demo:
    """Train a text-conditional model on the real digits that come with scikit-learn, and draw what it learnt. A few minutes."""

    out: Path = Path("demo")
    """The folder to fill."""
    steps: int | None = None
    """Optimiser steps. Not given: as many as fit into two and a half minutes on this machine."""
    overwrite: bool = False
    """Replace an earlier demo."""


NEXT = """
  {out}/scenes.png   what the models that ship draw for eight prompts each
  {out}/stickers.png
  {out}/digits.png   what the one trained here draws for "zero" ... "nine"
  {out}/path.png     two digits on their way out of the noise
  {out}/loss.png     the loss while it learnt

Try next:
  unnoise sample {out}/run "seven" -n 16 --seed 3 --out sevens      (.venv/bin/unnoise if the environment is not active)
  unnoise train your/pictures --out runs/mine
  unnoise train --help"""


def run(argv: list[str]) -> None:
    args = parse(Demo, argv, "unnoise demo")
    demo(args.out, args.overwrite, args.steps)
    print(NEXT.format(out=args.out))

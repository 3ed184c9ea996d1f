"""unnoise average RUN --width 0.15 [--bf16] --out MODEL: another average of a run's weights, rebuilt from its snapshots."""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from unnoise.cli.terminal import parse, refuse_existing
from unnoise.recipes.train import average
from unnoise.training.ema import snapshots


@dataclass(frozen=True)
class Average:
    """The model of a run with averaged weights of any width, rebuilt after training (Karras et al. 2024, 2312.02696, section 3)."""

    run: tyro.conf.Positional[Path]
    """The run's folder."""
    out: Path
    """The folder of the new model."""
    width: float = 0.10
    """Relative width of the average, 0 to 0.28: 0.05 follows the last weights closely, 0.2 averages over most of the run."""
    step: int | None = None
    """The model as it was at the last snapshot up to this step: a weaker one for `unnoise sample RUN --weaker`. Not given: the last
    of all."""
    bf16: bool = False
    """Store the weights in bfloat16: half the size, as the models that ship are."""


def run(argv: list[str]) -> None:
    args = parse(Average, argv, "unnoise average")
    refuse_existing(args.out, overwrite=False)
    average(args.run, args.width, args.step).save(args.out, torch.bfloat16 if args.bf16 else None)
    step = max(s for s, _ in snapshots(args.run, args.step))
    print(f"the model as it was after {step:,} steps is in {args.out}")

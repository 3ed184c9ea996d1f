"""unnoise compare DATA --out DIR: diffusion against GANs and autoencoders, with equal parameters and compute."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import tyro

from unnoise.cli.terminal import parse
from unnoise.core.errors import InputError
from unnoise.recipes.compare import compare
from unnoise.recipes.comparison import FAMILIES, Comparison


@dataclass(frozen=True)
class Compare:
    """Train a diffusion model, GANs and autoencoders on your data with equal parameters and equal compute, and report side by side.

    Run it again with the same --out to go on after an interruption, or to add seeds, families and sizes.
    """

    data: tyro.conf.Positional[Path]
    """Pictures (a folder, zip or npz) or a csv table."""
    out: Path
    """The folder for runs, compare.json and compare.html."""
    families: tuple[str, ...] = tuple(FAMILIES)
    """Of diffusion, gan, style-gan, vae, vq."""
    seeds: int = 3
    """Models of each family."""
    budget: str = "10m"
    """Training time of a diffusion model here (90s, 10m, 1h), or what it may compute (5TFLOP); others get as many operations."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of network to compare, relative to the usual: 0.5 1 2 shows the scaling. All but 1 with the first seed alone."""
    samples: int = 1000
    """Rows that each model makes to be judged by, at most as many as half of the rows held out."""
    condition: str | None = None
    """For tables: the column of categories that rows are told."""
    unconditional: bool = False
    """Tell the models no classes; the classes still judge."""
    size: int | None = None
    """Side of the pictures in pixels."""
    width: int | None = None
    """Width of the diffusion model, a multiple of 16. Not given: the largest that learns enough in the budget."""


def run(argv: list[str]) -> None:
    args = parse(Compare, argv, "unnoise compare")
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Comparison) if f.name != "counted"}
    amount, counted = budget_of(args.budget)
    compare(Comparison(**{**given, "data": str(args.data), "budget": amount, "counted": counted}), args.out)


def budget_of(text: str) -> tuple[float, bool]:
    """90, 90s, 10m, 1.5h -> (seconds, False); 5TFLOP, 300GFLOP -> (TFLOP, True). InputError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|GFLOP|TFLOP|PFLOP|)", text.strip())
    if found is None:
        raise InputError(f"--budget {text!r} is neither a time nor a number of operations; say 90s, 10m, 1h or 5TFLOP")
    unit = found[2]
    each = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "GFLOP": 1e-3, "TFLOP": 1.0, "PFLOP": 1e3}[unit]
    return float(found[1]) * each, unit.endswith("FLOP")

"""unnoise compare DATA --out DIR: diffusion against GANs and autoencoders, with equal parameters and compute."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro

from unnoise.cli.terminal import parse
from unnoise.recipes.compare import compare
from unnoise.recipes.comparison import Comparison


@dataclass(frozen=True)
class Compare(Comparison):
    """Train a diffusion model, GANs and autoencoders on your data with equal parameters and equal compute, and report side by side.

    Run it again with the same --out to go on after an interruption, or to add seeds, families and sizes.
    """

    data: tyro.conf.Positional[str] = dataclasses.field(default=tyro.MISSING)
    """Pictures (a folder, zip or npz) or a csv table."""
    out: Path = dataclasses.field(default=tyro.MISSING)
    """The folder for runs, compare.json and compare.html."""


def run(argv: list[str]) -> None:
    args = parse(Compare, argv, "unnoise compare")
    compare(Comparison(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Comparison)}), args.out)

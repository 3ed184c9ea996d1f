"""unnoise example NAME: write a small real data set to try things on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro

from unnoise.cli.terminal import parse, refuse_existing
from unnoise.core.errors import InputError
from unnoise.modalities.image.examples import write_digits
from unnoise.modalities.image.stacked import write_stacked_digits
from unnoise.modalities.table.examples import write_breast_cancer


def _breast_cancer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_breast_cancer(folder / "breast-cancer.csv")


def _stacked_digits(folder: Path) -> None:
    write_stacked_digits(folder / "stacked-digits.npz")


EXAMPLES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "digits": (write_digits, "1797 handwritten digits of 8 x 8 pixels, in folders called zero ... nine"),
    "stacked-digits": (_stacked_digits, "20,000 pictures with a digit in each colour, 1,000 classes, as stacked-digits.npz"),
    "breast-cancer": (_breast_cancer, "569 patients, 30 measurements and the diagnosis, as breast-cancer.csv"),
}


@dataclass(frozen=True)
class Example:
    """Write a small real data set that comes with scikit-learn: digits, stacked-digits (pictures) or breast-cancer (a table)."""

    name: tyro.conf.Positional[str]
    """digits, stacked-digits or breast-cancer."""
    out: Path | None = None
    """The folder to write into. Not given: one called like the example."""


def run(argv: list[str]) -> None:
    args = parse(Example, argv, "unnoise example")
    if args.name not in EXAMPLES:
        raise InputError(f"there is no example {args.name!r}; there are {', '.join(EXAMPLES)}")
    out = args.out or Path(args.name)
    refuse_existing(out, overwrite=False)
    if out.is_dir():
        out.rmdir()  # it is empty
    write, what = EXAMPLES[args.name]
    write(out)
    print(f"{what}, in {out}/")

"""Diffusion, GANs and autoencoders at equal parameters and equal compute, on three sets: products, stacked digits, a table.

    python benchmarks/compare.py --out runs/compare [--seeds 3] [--fashion 1500GFLOP] [--digits 1TFLOP] [--table 100GFLOP]

products  Fashion-MNIST, 28 x 28, ten classes that models are told; from the folder that UNNOISE_DATA names
digits    stacked digits (8 x 8 x 3, 1,000 modes), models told nothing
table     scikit-learn's breast cancer, rows told the diagnosis

A budget is what each model may compute in training (or the diffusion model's time: 90s, 5m), 0 leaves a set out. Interrupted,
the same command goes on where it was. Every set has its own report in OUT/SET/compare.html.
"""

import argparse
import os
from pathlib import Path

from unnoise.core.errors import InputError
from unnoise.modalities.image.stacked import write_stacked_digits
from unnoise.modalities.table.examples import write_breast_cancer
from unnoise.recipes.compare import compare
from unnoise.recipes.comparison import FAMILIES, Comparison, budget_of


def fashion() -> Path:
    """The npz of Fashion-MNIST in the folder of shared data."""
    folder = Path(os.environ.get("UNNOISE_DATA", "")) / "fashion_mnist"
    found = sorted(folder.glob("*.npz"))
    if "UNNOISE_DATA" not in os.environ or not found:
        raise InputError(
            "Fashion-MNIST is looked for as $UNNOISE_DATA/fashion_mnist/*.npz; set it, or leave the set out: --fashion 0"
        )
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fashion", default="1500GFLOP")
    parser.add_argument("--digits", default="1TFLOP")
    parser.add_argument("--table", default="100GFLOP")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--samples", type=int, default=1000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sets = [("fashion", args.fashion, None, False), ("digits", args.digits, None, True), ("table", args.table, "diagnosis", False)]
    for name, text, condition, unconditional in sets:
        if not budget_of(text)[0]:
            continue
        if name == "fashion":
            data = fashion()
        elif name == "digits":
            data = args.out / "stacked-digits.npz"
            if not data.exists():
                write_stacked_digits(data)
        else:
            data = args.out / "breast-cancer.csv"
            if not data.exists():
                write_breast_cancer(data)
        print(f"\n=== {name}: {data.name}, {text} a model, {args.seeds} seeds ===", flush=True)
        asked = Comparison(
            str(data), tuple(args.families), args.seeds, text, tuple(args.scales), args.samples, condition, unconditional
        )
        compare(asked, args.out / name)


if __name__ == "__main__":
    main()

"""Few steps against many, on a trained model of digits: DDIM at 20 steps beside ancestral DDPM at 1000.

    python benchmarks/digits.py RUN --data digits [--n 300]

RUN: a run of `unnoise train` or the demo's (demo/run), told the digits' names. For every sampler n samples, as many of each
digit, without guidance, are compared with n real digits in two distances that know nothing of the model: the energy distance of
pixels, and the sliced Wasserstein distance. Beside them stands the floor: the same distances between real digits.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from unnoise.evaluation.two_sample import Energy, SlicedWasserstein, floor
from unnoise.loading import load
from unnoise.modalities.image.examples import DIGITS
from unnoise.modalities.image.reading import read_pictures


def flat(pictures: Tensor) -> Tensor:
    return pictures.flatten(1).double() / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load(args.run)
    data = read_pictures(args.data, progress=False)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(args.seed)).tolist()
    real = flat(torch.as_tensor(data.pictures(order)))
    a, b = real[: args.n], real[args.n : 2 * args.n]
    distances = {"energy": Energy(unbiased=False), "sliced Wasserstein": SlicedWasserstein(directions=1000, seed=0)}
    floors = {name: floor(d, a, b) for name, d in distances.items()}
    print(f"{args.n} samples each; floor: real against real, over 100 splits")
    print("sampler          steps  seconds " + "".join(f"{name:>20}" for name in distances))
    print(f"{'real':<16} {'-':>5} {'-':>8} " + "".join(f"{f.mean:>13.4f} ±{f.std:.3f}" for f in floors.values()))
    found: dict[str, list[float]] = {}
    for name, steps in (("ddim", 20), ("dpmpp-2m", 20), ("ddpm", 1000)):
        began = time.perf_counter()
        samples = model.sample(DIGITS, args.n // len(DIGITS), seed=args.seed, sampler=name, steps=steps, guidance=1.0, batch=100)
        seconds = time.perf_counter() - began
        found[name] = [d(flat(samples.data), a) for d in distances.values()]
        print(f"{name:<16} {steps:>5} {seconds:>8.1f} " + "".join(f"{v:>20.4f}" for v in found[name]), flush=True)
    for i, name in enumerate(distances):
        ratio = found["ddim"][i] / found["ddpm"][i]
        print(f"{name}: DDIM 20 / DDPM 1000 = {ratio:.3f} (DDIM is {'not ' if ratio > 1.1 else ''}at most 10 % worse)")


if __name__ == "__main__":
    main()

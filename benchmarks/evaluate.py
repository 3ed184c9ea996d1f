"""How long an evaluation takes, section by section: 10,000 given pictures of 32 x 32 against 8,000 real ones, and the memory.

    python benchmarks/evaluate.py [--n 10000] [--threads 2] [--only distances features ...]

The real ones are CIFAR-10's, from the folder that UNNOISE_DATA names; the given ones the same mirrored, moved and with some noise:
good but not perfect. A matrix product is timed first, for these machines differ.
"""

import argparse
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import unnoise.recipes.evaluate as recipe
from unnoise.core.errors import InputError
from unnoise.evaluation.report import to_text
from unnoise.modalities.image.reading import read_pictures
from unnoise.recipes.sections import Options


def given(real: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = real[rng.permutation(max(n, len(real)))[:n] % len(real)][:, :, ::-1]
    x = np.stack([np.roll(p, tuple(rng.integers(-2, 3, 2)), (0, 1)) for p in x])
    return np.clip(x + rng.normal(0, 4, x.shape), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = sorted((Path(os.environ.get("UNNOISE_DATA", "nowhere")) / "cifar10").glob("*.zip"))
    if not found:
        raise InputError("UNNOISE_DATA names no folder with cifar10/*.zip")
    a = torch.randn(1024, 1024)
    began = time.perf_counter()
    for _ in range(20):
        a @ a
    print(f"matrix product: {20 * 2 * 1024**3 / (time.perf_counter() - began) / 1e12:.3f} TFLOP/s with {args.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        data = read_pictures(found[0], progress=False)
        samples = Path(folder) / "samples.npz"
        np.savez(samples, images=given(data.pictures(range(len(data))), args.n))
        seconds: dict[str, float] = {}
        for name, section in recipe.SECTIONS.items():
            recipe.SECTIONS = {**recipe.SECTIONS, name: _timed(name, section, seconds)}
        began = time.perf_counter()
        options = Options(n=args.n, only=tuple(args.only))
        sections = recipe.evaluate(samples, found[0], Path(folder) / "report", options, progress=False)
        total = time.perf_counter() - began
    print(to_text([replace(s, drawings=()) for s in sections]))
    print("\nsection       seconds")
    for name, s in seconds.items():
        print(f"{name:<13} {s:7.1f}")
    print(f"{'all':<13} {total:7.1f}   (largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB)")


def _timed(name, section, seconds):
    def run(it):
        began = time.perf_counter()
        try:
            return section(it)
        finally:
            seconds[name] = time.perf_counter() - began

    return run


if __name__ == "__main__":
    main()

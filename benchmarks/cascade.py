"""A super-resolution stage on pictures that it never saw, beside bicubic enlargement.

    unnoise train DATA --recipe super-resolution --size 64 --data.options.held-out 0.1 --out runs/enlarge
    python benchmarks/cascade.py runs/enlarge [-n 200] [--steps 10]

RUN: a run of the recipe that held pictures out. These are made small (bicubic, as in training) and rounded to bytes, then enlarged.
Printed: PSNR = 10 log10(255^2 / mean squared error), the mean over pictures with its 95 % interval; the gain over bicubic, paired;
and how much of the spectrum's finest octave there is (1: as much as in the real pictures).

    bicubic     Pillow's, the stage's own starting point
    strength s  samples of the stage, told that its picture was noised by s, as it is; a sample cannot have the PSNR of the mean
    mean        the mean of 8 samples at strength 0: nearer to the picture that is best in squared error
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from autoencoder import psnr_of_each
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.core.random import Streams, derive
from unnoise.loading import load
from unnoise.modalities.image.enlarging import Enlarging
from unnoise.model import DiffusionModel
from unnoise.recipes.runs import load_run
from unnoise.recipes.sources import OpenPictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--steps", type=int, default=None)
    asked = parser.parse_args()
    run, _ = load_run(asked.run)
    model = load(asked.run)
    if not isinstance(model.conditioner, Enlarging):
        raise InputError(f"{asked.run}: not a run of the recipe super-resolution")
    opened = run.data.open(progress=False)
    assert isinstance(opened, OpenPictures)
    _, held = opened.split(opened.pictures.options.held_out)
    real = torch.from_numpy(held.pictures.pictures(range(min(asked.n, len(held.pictures)))))
    small = _small(model.conditioner, real)
    bicubic = torch.from_numpy(np.stack([_enlarged(x.numpy(), real.shape[2], real.shape[1]) for x in small]))
    base = psnr_of_each(bicubic.double(), real.double())
    steps = asked.steps or model.config.sampling.steps
    print(f"{len(real)} held-out pictures, {small.shape[2]} -> {real.shape[2]} pixels, {steps} steps\n")
    print(f"{'':<14} {'PSNR, dB':>24} {'over bicubic':>24} {'fine detail':>12}")
    _line("bicubic", base, base, bicubic, real)
    for strength in (0.0, 0.1, 0.3):
        made = _made(model, small, strength, 0, asked.steps)
        _line(f"strength {strength:g}", psnr_of_each(made.double(), real.double()), base, made, real)
    mean = torch.stack([_made(model, small, 0.0, k, asked.steps).double() for k in range(8)]).mean(0)
    _line("mean of 8", psnr_of_each(mean, real.double()), base, mean, real)


def _small(conditioner: Enlarging, real: Tensor) -> Tensor:
    """uint8 (N, h, w, C)"""
    shape = conditioner.small.shape()[1:]
    return conditioner.small.decode(interpolate(conditioner.large.encode(real), shape, mode="bicubic", antialias=True))


def _enlarged(x: np.ndarray, width: int, height: int) -> np.ndarray:
    channels = [Image.fromarray(x[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(x.shape[-1])]
    return np.stack([np.asarray(c) for c in channels], -1)


def _made(model: DiffusionModel, small: Tensor, strength: float, seed: int, steps: int | None) -> Tensor:
    conditioner = model.conditioner
    assert isinstance(conditioner, Enlarging)
    conditioner.config = replace(conditioner.config, strength=strength)
    seeds = [derive(seed, i) for i in range(len(small))]
    given = conditioner.from_made(small, Streams.each(seeds).scoped("given"))
    return model.sample(n=len(small), sample_seeds=seeds, given=given, steps=steps).data


def _fine(pictures: Tensor) -> float:
    """Power at more than half of the highest frequency."""
    f = torch.fft.fft2(pictures.double().mean(-1)).abs().square().mean(0)
    high = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(f.shape[0]), torch.fft.fftfreq(f.shape[1]), indexing="ij")) > 0.25
    return float(f[high].mean())


def _line(name: str, psnr: Tensor, base: Tensor, made: Tensor, real: Tensor) -> None:
    value, gain = intervals.mean(psnr), intervals.mean(psnr - base)
    whole = f"{value.value:.2f} ({value.low:.2f} - {value.high:.2f})"
    better = f"{gain.value:+.2f} ({gain.low:+.2f} - {gain.high:+.2f})" if psnr is not base else ""
    print(f"{name:<14} {whole:>24} {better:>24} {_fine(made) / _fine(real):>12.2f}")


if __name__ == "__main__":
    main()

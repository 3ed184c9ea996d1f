"""A super-resolution stage on pictures that it never saw, beside bicubic enlargement.

    unnoise train stickers:$UNNOISE_DATA --recipe super-resolution --out runs/enlarge
    python benchmarks/cascade.py runs/enlarge [-n 200] [--steps 8] [--pictures FOLDER --size 128]

RUN: a run of the recipe, or with --pictures any model of it, such as `larger`. Its pictures are those that it held out, by name: of
`stickers` the drawings whose names nothing was learnt from, of other sets those of --data.options.held-out. --pictures: others, of
any size. All are made small (bicubic, as in training), rounded to bytes, and enlarged; transparent ones are compared on white. With
95 % intervals, gains over bicubic paired:

    PSNR, SSIM   10 log10(255^2 / mean squared error), and structural similarity: mean over pictures
    texture      how far the finest detail is from the real picture's, wherever in it: mean of W_1(<w, made>, <w, real>) over 64
                 random unit filters w of 7 x 7 pixels and all places, of what a picture has over its own bicubic half (sliced
                 Wasserstein distance of the finest Laplacian level, Karras et al. 2017, 1710.10196, section 5), in levels of 255
    fine         power in the upper half of the frequencies, in units of the real pictures'

    mirrored     the real pictures, mirrored: as real as they are, for what texture is at best
    bicubic      Pillow's, the stage's own starting point
    mean at once samples in one step: the stage's estimate of the mean, which is best in squared error, and too smooth
    strength s   samples of the stage, told that its picture was noised by s, as it is. Even a perfect sample has twice the squared
                 error of the mean: 3 dB less
    mean of 8    the mean of 8 samples at strength 0
"""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from autoencoder import on_white, psnr_of_each
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval
from unnoise.core.random import Streams, derive
from unnoise.evaluation.ssim import ssim
from unnoise.loading import load
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.enlarging import Enlarging
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.sticker_set import Mix, are_stickers, read_drawings, sticker_folders
from unnoise.model import DiffusionModel
from unnoise.recipes.run import spread
from unnoise.recipes.runs import load_run
from unnoise.recipes.sources import OpenPictures, PictureSource

FILTERS, SIDE = 64, 7


def held_out(source: PictureSource) -> np.ndarray:
    """uint8 (N, H, W, C): the pictures whose names nothing was learnt from."""
    if are_stickers(source.path):
        drawings = read_drawings(sticker_folders(source.path), source.options.size or 64)
        return np.stack([s.pixels for s in drawings if Mix().holds_out(s.facts.name)])
    opened = source.open(progress=False)
    assert isinstance(opened, OpenPictures)
    _, held = opened.pictures.split(opened.pictures.options.held_out)
    return held.pictures(range(len(held)))


def texture(x: Tensor, y: Tensor) -> Tensor:
    """(B, C, H, W) each -> (B,)."""
    w = torch.randn(FILTERS, x.shape[1], SIDE, SIDE, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    w = w / w.flatten(1).norm(dim=1)[:, None, None, None]
    a, b = (conv2d(_finest(v), w).flatten(2).sort().values for v in (x, y))
    return (a - b).abs().mean((1, 2))


def fine(x: Tensor) -> float:
    """Mean power at more than half of the highest frequency, of the mean over channels."""
    f = torch.fft.fft2(x.mean(1)).abs().square().mean(0)
    high = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(f.shape[0]), torch.fft.fftfreq(f.shape[1]), indexing="ij")) > 0.25
    return float(f[high].mean())


def _finest(x: Tensor) -> Tensor:
    small = interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True)
    return x - interpolate(small, x.shape[2:], mode="bicubic")


@dataclass(frozen=True)
class Enlarger:
    """What makes pictures large: a stage, and the small pictures (N, h, w, C)."""

    model: DiffusionModel
    small: Tensor = field(repr=False)

    @property
    def conditioner(self) -> Enlarging:
        assert isinstance(self.model.conditioner, Enlarging)
        return self.model.conditioner

    def bicubic(self) -> Tensor:
        given = self._told(0.0, Streams.of(0, len(self.small)))["picture"]
        return self.conditioner.pixels.resized(*given.shape[2:]).decode(given)

    def sample(self, strength: float, steps: int | None, seed: int = 0) -> Tensor:
        seeds = [derive(seed, i) for i in range(len(self.small))]
        given = self._told(strength, Streams.each(seeds).scoped("given"))
        height, width = given["picture"].shape[2:]
        return self.model.sample(
            n=len(seeds), sample_seeds=seeds, given=given, steps=steps, height=height, width=width, batch=16
        ).data  # fmt: skip

    def _told(self, strength: float, rng: Streams) -> dict[str, Tensor]:
        self.conditioner.config = replace(self.conditioner.config, strength=strength)
        return dict(self.conditioner.from_made(self.small, rng))


COLUMNS = (("PSNR, dB", psnr_of_each, 2), ("SSIM", ssim, 4), ("texture", texture, 2))


@dataclass(frozen=True)
class Table:
    """All (N, 3, H, W) in 0 ... 255, on white."""

    real: Tensor = field(repr=False)
    bicubic: Tensor = field(repr=False)

    def head(self) -> None:
        print(f"{'':<14}" + "".join(f" {name:>24} {'over bicubic':>26}" for name, _, _ in COLUMNS) + f" {'fine':>5}")

    def line(self, name: str, x: Tensor, left_out: int = 0) -> None:
        """left_out: so many of the first columns mean nothing for x."""
        told = [f" {'':>24} {'':>26}"] * left_out
        for _, measure, digits in COLUMNS[left_out:]:
            each, base = measure(x, self.real), measure(self.bicubic, self.real)
            gain = "" if x is self.bicubic else _said(intervals.mean(each - base), digits, "+")
            told.append(f" {_said(intervals.mean(each), digits):>24} {gain:>26}")
        print(f"{name:<14}" + "".join(told) + f" {fine(x) / fine(self.real):>5.2f}", flush=True)


def _said(i: Interval, digits: int, sign: str = "") -> str:
    return f"{i.value:{sign}.{digits}f} ({i.low:{sign}.{digits}f}, {i.high:{sign}.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=200)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--pictures", type=Path, default=None)
    parser.add_argument("--size", type=int, default=None)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = load(asked.run)
    if not isinstance(model.conditioner, Enlarging):
        raise InputError(f"{asked.run}: enlarges nothing")
    if asked.pictures is None:
        run, _ = load_run(asked.run)
        assert isinstance(run.data, PictureSource)
        pixels = held_out(run.data)
    else:
        alpha = model.conditioner.config.large.channels == 4
        read = read_pictures(asked.pictures, PictureOptions(size=asked.size, largest=4096, alpha=alpha), progress=False)
        pixels = read.pictures(range(len(read)))
    real = torch.from_numpy(pixels[list(spread(range(len(pixels)), asked.n))])
    size = replace(model.conditioner.config.large, height=real.shape[1], width=real.shape[2])
    stage = Enlarger(model, replace(model.conditioner.config, large=size).build().shrunk(real))
    steps = asked.steps or model.config.sampling.steps
    print(f"{len(real)} pictures, {stage.small.shape[2]} -> {real.shape[2]} pixels, {steps} steps\n")
    strengths = sorted({0.0, 0.03, 0.1, model.conditioner.config.strength})
    table = Table(on_white(real), on_white(stage.bicubic()))
    table.head()
    table.line("mirrored", table.real.flip(-1), left_out=2)
    table.line("bicubic", table.bicubic)
    table.line("mean at once", on_white(stage.sample(0.0, 1)))
    for strength in strengths:
        table.line(f"strength {strength:g}", on_white(stage.sample(strength, steps)))
    table.line("mean of 8", torch.stack([on_white(stage.sample(0.0, steps, seed)) for seed in range(8)]).mean(0))


if __name__ == "__main__":
    main()

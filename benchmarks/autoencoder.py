"""How well codecs of latents bring pictures back that they have never seen, how fast, and whether tiles leave seams.

    unnoise train $UNNOISE_DATA/emoji --recipe autoencoder --alpha --size 64 --data.options.held-out 0.05 --out runs/codec
    python benchmarks/autoencoder.py runs/codec [more ...] [--judge $UNNOISE_DATA/photos_grocery]

Every argument is a finished run of a recipe `autoencoder...` or `latent`; its pictures are those that its data held out. For each
  numbers      of a picture's code, and the pictures' own numbers for one of them
  PSNR, SSIM   on unseen pictures, transparent ones over white; with 95 % intervals over pictures
  alpha        mean absolute error of the opacity, in levels of 255
  encode, decode  seconds a picture, one at a time on one thread, the least of several
  seam         a large picture (a sheet of unseen ones) decoded in tiles and at once: the largest difference, in levels of 255,
               before rounding; and the same with tiles that merely lie side by side, for comparison
  fine         power beyond half of the finest frequency, of that of the pictures themselves
With --judge, a set of pictures of which captions recur, a network that learned to tell these says how far pictures and what becomes
of them are apart, and no codec has learned from it; more is worse, 0 is equality.
  seen         1000 times the distance of a picture's features, over layers and places (`networks.features`)
  Frechet      distance of all the pictures' features as Gaussians
Intervals are over pictures, of one training. Of runs that held out the same pictures, each after the first is compared with the
first, picture by picture.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from unnoise.checkpoints.codec import load_codec
from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.evaluation.encoders import NetworkEncoder, train_classifier
from unnoise.evaluation.frechet import Moments, distance
from unnoise.evaluation.ssim import ssim
from unnoise.modalities.image.alpha import over
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.image.measure import Pictures, class_of
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.tiling import tiled
from unnoise.networks.features import PictureFeatures, feature_distance
from unnoise.recipes.autoencoder import AutoencoderRun
from unnoise.recipes.latent import FIRST, LatentRun
from unnoise.recipes.runs import load_run


def on_white(x: Tensor) -> Tensor:
    """uint8 (B, H, W, C) -> float64 (B, 1 or 3, H, W), 0 ... 255."""
    x = x.permute(0, 3, 1, 2).double()
    if x.shape[1] < 4:
        return x
    shown = torch.cat([x[:, :3] * x[:, 3:] / 255, x[:, 3:]], 1) / 255
    return 255 * over(shown, torch.ones(len(x), 3, dtype=x.dtype))


def psnr_of_each(x: Tensor, y: Tensor) -> Tensor:
    """(B,) dB."""
    return 10 * torch.log10(255**2 / (x - y).square().flatten(1).mean(1).clamp(min=1e-3))


def seconds(call: Callable[[], object], times: int = 5) -> float:
    """The least of several."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


@torch.no_grad()
def seams(codec: Latents, pictures: Tensor) -> tuple[float, float]:
    """Largest differences to the whole, of overlapping tiles and of tiles side by side."""
    small = codec.resized(*pictures.shape[1:3])
    small.config = replace(small.config, tile=1)  # tiles as small as they can be
    factor, how = codec.config.autoencoder.factor, small.tiling(1)
    side = math.ceil(1.25 * how.side * factor / min(pictures.shape[1:3]))  # pictures along a side of the sheet
    rows = [torch.cat(list(row), 1) for row in pictures[torch.arange(side**2) % len(pictures)].split(side)]
    sheet = torch.cat(rows)[None]
    large = small.resized(*sheet.shape[1:3])
    z = large.encode(sheet) * codec.std[:, None, None] + codec.mean[:, None, None]
    whole = codec.autoencoder.decode(z)
    overlapping = tiled(codec.autoencoder.decode, z, how, Fraction(factor))
    half = z.shape[-1] // 2
    beside = torch.cat([codec.autoencoder.decode(z[..., :half]), codec.autoencoder.decode(z[..., half:])], -1)
    tiles, halves = (float((y - whole).abs().max()) * 127.5 for y in (overlapping, beside))
    return tiles, halves


def fine(x: Tensor) -> Tensor:
    """(B,): power of grey (B, H, W) beyond half of the finest frequency."""
    f, g = (torch.fft.fftfreq(n) for n in x.shape[1:])
    return torch.fft.fft2(x)[:, torch.hypot(f[:, None], g[None]) > 0.25].abs().square().mean(1)


def jackknife(value: Callable[[Tensor], float], n: int) -> intervals.Interval:
    """Of a figure of n pictures, given as the numbers of those that it is of: each is left out once (Tukey 1958)."""
    every = torch.arange(n)
    without = torch.tensor([value(every[every != i]) for i in range(n)], dtype=torch.float64)
    reach = intervals.student(n - 1) * math.sqrt((n - 1) * float(without.var(correction=0)))
    whole = value(every)
    return intervals.Interval(whole, whole - reach, whole + reach)


@cache
def judge_of(path: Path, height: int, width: int) -> PictureFeatures:
    """Learned from nine tenths of the set's pictures; says how many of the rest it gets right."""
    data = read_pictures(path, PictureOptions(shape=(height, width)), progress=False)
    told = [c[0] if c else None for c in data.captions]
    captions = sorted({c for c in told if c is not None})
    where = [torch.tensor([i % 10 > 0 for i in range(len(data))]).eq(b).nonzero()[:, 0].tolist() for b in (True, False)]
    rest, held = (Pictures.of(data.pictures(rows), (class_of([told[i] for i in rows], captions),)) for rows in where)
    classifier = train_classifier(rest, rest.known[0])
    right = intervals.share(round(classifier.accuracy(held, rest) * len(held)), len(held))
    print(f"the judge tells {len(captions)} captions of {path.name} apart: {right.value:.1%} right of {len(held)} held out")
    encoder = classifier.encoder()
    assert isinstance(encoder, NetworkEncoder)
    assert isinstance(encoder.network, PictureFeatures)
    return encoder.network


@torch.no_grad()
def judged(network: PictureFeatures, a: Tensor, b: Tensor) -> tuple[Tensor, intervals.Interval]:
    """Of (B, 1 or 3, H, W), 0 ... 255: 1000 times each picture's distance, and the Frechet distance."""
    x, y = ((v.float() / 127.5 - 1).expand(-1, 3, -1, -1) for v in (a, b))
    each = torch.cat([feature_distance(network, *part) for part in zip(x.split(64), y.split(64))])
    p, q = (torch.cat([network(part) for part in v.split(64)]).double() for v in (x, y))
    return 1000 * each, jackknife(lambda rows: distance(Moments.of(p[rows]), Moments.of(q[rows])), len(p))


@dataclass(frozen=True)
class Measured:
    """each: figures of every picture, by their names."""

    row: str
    pictures: tuple[str, ...]
    each: dict[str, Tensor]


def shown(x: intervals.Interval, digits: int = 2) -> str:
    return f"{x.value:.{digits}f} ±{(x.high - x.low) / 2:.{digits}f}"


def measure(folder: Path, most: int, judge_set: Path | None) -> Measured:
    run, _ = load_run(folder)
    if not isinstance(run, AutoencoderRun | LatentRun) or not run.data.options.held_out:
        raise InputError(
            f"{folder}: no run of a recipe autoencoder or latent that held pictures out (--data.options.held-out 0.05)"
        )
    codec = load_codec(folder / FIRST if isinstance(run, LatentRun) else folder)
    _, unseen = run.data.open(progress=False).pictures.split(run.data.options.held_out)
    x = torch.from_numpy(unseen.pictures(range(min(most, len(unseen)))))
    made = torch.cat([codec.decode(codec.encode(part)) for part in x.split(64)])
    a, b = on_white(x), on_white(made)
    each = {"PSNR": psnr_of_each(a, b), "SSIM": ssim(a, b)}
    quality, likeness = intervals.mean(each["PSNR"]), intervals.mean(each["SSIM"])
    power = fine(a.mean(1)), fine(b.mean(1))
    seen = [shown(jackknife(lambda rows: float(power[1][rows].sum() / power[0][rows].sum()), len(x)))]
    if judge_set is not None:
        each["seen"], far = judged(judge_of(judge_set, x.shape[1], x.shape[2]), a, b)
        seen += [shown(intervals.mean(each["seen"]), 1), shown(far)]
    opacity = float((x[..., 3].double() - made[..., 3].double()).abs().mean()) if x.shape[-1] == 4 else float("nan")
    state = codec.encode(x[:1])
    encode, decode = seconds(lambda: codec.encode(x[:1])), seconds(lambda: codec.decode(state))
    overlapping, beside = seams(codec, x)
    parameters = sum(p.numel() for p in codec.parameters())
    kind = type(codec.config.autoencoder.bottleneck).__name__.removesuffix("Config")
    numbers = state.numel()
    row = "  ".join(
        [
            f"{folder.name:<16} {kind:<14} {parameters / 1e6:5.1f}M",
            f"{numbers:>6} ({x[0].numel() / numbers:4.1f})",
            f"{quality.value:5.2f} ±{(quality.high - quality.low) / 2:4.2f}",
            f"{likeness.value:.4f} ±{(likeness.high - likeness.low) / 2:.4f}",
            f"{opacity:5.2f}  {encode:.4f}  {decode:.4f}  {overlapping:9.5f}  {beside:7.1f}   {len(x)}     ",
            *seen,
        ]
    )
    return Measured(row, unseen.names[: len(x)], each)


def against(first: Measured, other: Measured) -> str:
    """other - first, of the same pictures."""
    differences = {name: intervals.mean(v - first.each[name]) for name, v in other.each.items()}
    return "  against the first: " + ", ".join(f"{name} {shown(d, 4 if name == 'SSIM' else 2)}" for name, d in differences.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--most", type=int, default=500, help="unseen pictures that are measured")
    parser.add_argument(
        "--judge", type=Path, help="pictures with captions that recur, for a network that no codec has learned from"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'run':<16} {'bottleneck':<14} {'size':>6}  {'numbers':>13}  {'PSNR, dB':>11}  {'SSIM':>14}  alpha  encode  decode  "
        f"{'seam':>9}  {'beside':>7}   pictures  fine" + ("  seen  Frechet" if args.judge else "")
    )
    first: Measured | None = None
    for folder in args.runs:
        measured = measure(folder, args.most, args.judge)
        print(measured.row, flush=True)
        first = first or measured
        if measured is not first and measured.pictures == first.pictures:
            print(against(first, measured), flush=True)


if __name__ == "__main__":
    main()

"""How well codecs of latents bring pictures back that they have never seen, how fast, and whether tiles leave seams.

    unnoise train $UNNOISE_DATA/emoji --recipe autoencoder --alpha --size 64 --data.options.held-out 0.05 --out runs/codec
    python benchmarks/autoencoder.py runs/codec [more ...]

Every argument is a finished run of a recipe `autoencoder...` or `latent`; its pictures are those that its data held out. For each
  numbers      of a picture's code, and the pictures' own numbers for one of them
  PSNR, SSIM   on unseen pictures, transparent ones over white; with 95 % intervals over pictures
  alpha        mean absolute error of the opacity, in levels of 255
  encode, decode  seconds a picture, one at a time on one thread, the least of several
  seam         a large picture (a sheet of unseen ones) decoded in tiles and at once: the largest difference, in levels of 255,
               before rounding; and the same with tiles that merely lie side by side, for comparison
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from unnoise.checkpoints.codec import load_codec
from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.evaluation.ssim import ssim
from unnoise.modalities.image.alpha import over
from unnoise.modalities.image.latents import Latents
from unnoise.modalities.image.tiling import tiled
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


def measure(folder: Path, most: int) -> str:
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
    quality, likeness = intervals.mean(psnr_of_each(a, b)), intervals.mean(ssim(a, b))
    opacity = float((x[..., 3].double() - made[..., 3].double()).abs().mean()) if x.shape[-1] == 4 else float("nan")
    state = codec.encode(x[:1])
    encode, decode = seconds(lambda: codec.encode(x[:1])), seconds(lambda: codec.decode(state))
    overlapping, beside = seams(codec, x)
    parameters = sum(p.numel() for p in codec.parameters())
    kind = type(codec.config.autoencoder.bottleneck).__name__.removesuffix("Config")
    numbers = state.numel()
    return "  ".join(
        [
            f"{folder.name:<16} {kind:<14} {parameters / 1e6:5.1f}M",
            f"{numbers:>6} ({x[0].numel() / numbers:4.1f})",
            f"{quality.value:5.2f} ±{(quality.high - quality.low) / 2:4.2f}",
            f"{likeness.value:.4f} ±{(likeness.high - likeness.low) / 2:.4f}",
            f"{opacity:5.2f}  {encode:.4f}  {decode:.4f}  {overlapping:9.5f}  {beside:7.1f}   {len(x)}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--most", type=int, default=500, help="unseen pictures that are measured")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{'run':<16} {'bottleneck':<14} {'size':>6}  {'numbers':>13}  {'PSNR, dB':>11}  {'SSIM':>14}  alpha  encode  decode  "
        f"{'seam':>9}  {'beside':>7}   pictures"
    )
    for folder in args.runs:
        print(measure(folder, args.most), flush=True)


if __name__ == "__main__":
    main()

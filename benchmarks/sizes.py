"""Sizes told (`modalities.image.sizes`): does a network that knows which pictures were enlarged draw sharp ones when asked to?

    python benchmarks/sizes.py write $UNNOISE_DATA/fashion_mnist/fashion_mnist_train_20k.npz mixed enlarged
    unnoise train mixed --size 28 --out told --width 128 --depth 4 --steps 1000 --data.options.held-out 0.1
    unnoise train enlarged --size 28 --out untold --width 128 --depth 4 --steps 1000 --data.options.held-out 0.1
    python benchmarks/sizes.py measure told untold mixed

`write` makes every other picture of a set, chosen at random, one of 10 x 10 pixels; the second folder holds what the first is read
as, pixel for pixel, all of one size: whoever trains on it is told nothing. A judge that learned from the real pictures alone says
whether one is sharp or was enlarged; 95 % intervals, over pictures, of one training each.
  sharp   share that the judge calls sharp
  fine    power beyond half of the finest frequency, of the mean of real sharp pictures
  slope   the mean difference of neighbouring pixels, of that of real sharp pictures
  energy  unbiased energy distance to real sharp pictures that were held out
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.intervals import mean, share
from unnoise.core.measure import Attribute
from unnoise.evaluation.encoders import train_classifier
from unnoise.evaluation.two_sample import Energy
from unnoise.loading import load
from unnoise.modalities.image.data import PictureData, PictureOptions
from unnoise.modalities.image.measure import Pictures
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.show import sheet

SIDE, SMALL = 28, 10
SHARPNESS = ("enlarged", "sharp")


def write(source: Path, mixed: Path, enlarged: Path) -> None:
    with np.load(source) as held:
        pictures, labels = held["x"], held["y"]
    small = np.random.default_rng(0).permutation(len(pictures)) % 2 == 0
    for i, (picture, label) in enumerate(zip(pictures, labels)):
        im = Image.fromarray(picture)
        save(im.resize((SMALL, SMALL), Image.Resampling.LANCZOS) if small[i] else im, mixed / str(label) / f"{i:05d}.png")
    data = read_pictures(mixed, PictureOptions(size=SIDE), progress=False)
    for name, picture in zip(data.names, data.pictures(range(len(data)))):
        save(Image.fromarray(picture[..., 0]), enlarged / name)


def save(im: Image.Image, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    im.save(to)


def known(data: PictureData) -> Pictures:
    """With the attribute that the judge is to learn."""
    if data.sizes is None:
        raise InputError("these pictures are all of one size: give the folder `mixed`")
    codes = torch.tensor([int(s[0] == SIDE) for s in data.sizes])
    return Pictures.of(data.pictures(range(len(data))), (Attribute("sharpness", SHARPNESS, codes),))


def fine(x: Tensor) -> Tensor:
    """(N,): power of (N, H, W) at frequencies beyond half of the finest."""
    f = torch.fft.fftfreq(SIDE)
    beyond = torch.hypot(f[:, None], f[None]) > 0.25
    return torch.fft.fft2(x)[:, beyond].abs().square().mean(1)


def slope(x: Tensor) -> Tensor:
    return (x.diff(dim=1).abs().flatten(1).mean(1) + x.diff(dim=2).abs().flatten(1).mean(1)) / 2


def grey(x: np.ndarray | Tensor) -> Tensor:
    """uint8 (N, H, W, 1) -> (N, H, W), 0 ... 1."""
    return torch.as_tensor(x)[..., 0].double() / 255


def measure(told: Path, untold: Path, data: Path, n: int, guidance: float | None, out: Path | None) -> None:
    rest, held = read_pictures(data, PictureOptions(size=SIDE), progress=False).split(0.1)
    learned, unseen = known(rest), known(held)
    judge = train_classifier(learned, learned.known[0])
    says = judge.probabilities(unseen, learned).argmax(1)
    truth = unseen.known[0].codes
    print(f"{len(learned)} real pictures to judge by; told right of {len(unseen)} held out: {said(says == truth)}")
    order = torch.randperm(len(held), generator=torch.Generator().manual_seed(0))  # read by name, they are sorted by class
    sharp, blurred = (unseen.take(order[truth[order] == v].tolist()) for v in (1, 0))
    real, half = grey(sharp.array()), len(sharp) // 2
    scales = fine(real).mean(), slope(real).mean()
    energy = Energy(unbiased=True)

    def row(name: str, pictures: Pictures) -> None:
        x = grey(pictures.array())
        calls = judge.probabilities(pictures, learned).argmax(1) == 1
        each = [mean(value(x) / scale) for value, scale in zip((fine, slope), scales)]
        shown = "  ".join(f"{v.value:5.3f} [{v.low:5.3f}, {v.high:5.3f}]" for v in each)
        near = energy(x.flatten(1), real[:half].flatten(1))
        print(f"{name:<34} {said(calls):<24} {shown}  {near:7.4f}", flush=True)

    print(f"{'':<34} {'sharp':<24} {'fine':<21}  {'slope':<21}  energy")
    row("real, sharp, held out", sharp.take(range(half, len(sharp))))
    row("real, enlarged, held out", blurred)
    models = {"told": load(told), "untold": load(untold)}
    asked: list[tuple[str, str, tuple[int, int] | None]] = [
        ("told: asked for full size", "told", None),
        *((f"told: asked for {side} x {side}", "told", (side, side)) for side in (20, 14, SMALL)),
        ("not told", "untold", None),
    ]
    names: tuple[str, ...] = rest.classes or ()
    pages: list[np.ndarray] = []
    for name, model, original in asked:
        made = models[model].sample(names, n // len(names), seed=5, guidance=guidance, original=original)
        row(name, Pictures.of(np.asarray(made.data)))
        pages += [np.asarray(made.data[i]) for i in range(0, len(made.data), max(1, len(made.data) // 20))][:20]
    if out:
        sheet(pages, columns=20, smallest=56).save(out)


def said(right: Tensor) -> str:
    s = share(int(right.sum()), len(right))
    return f"{s.value:.1%} [{s.low:.1%}, {s.high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="make the two folders")
    writing.add_argument("source", type=Path, help="an .npz with x (N, 28, 28), y and class_names")
    writing.add_argument("mixed", type=Path)
    writing.add_argument("enlarged", type=Path)
    measuring = commands.add_parser("measure", help="print the table")
    measuring.add_argument("told", type=Path)
    measuring.add_argument("untold", type=Path)
    measuring.add_argument("data", type=Path, help="the folder `mixed`")
    measuring.add_argument("--n", type=int, default=500)
    measuring.add_argument("--guidance", type=float, default=1.0, help="1: none, so that half of an untold network's are sharp")
    measuring.add_argument("--out", type=Path, help="a picture of what was drawn, a row for each of the table's")
    args = parser.parse_args()
    if args.command == "write":
        write(args.source, args.mixed, args.enlarged)
    else:
        measure(args.told, args.untold, args.data, args.n, args.guidance, args.out)


if __name__ == "__main__":
    main()

"""Counts and places by a model that draws one thing at a time well: as it draws them itself, and arranged (--arrange).

    python benchmarks/arranged.py stickers --real $UNNOISE_DATA/emoji --judge runs/retrieval [--each 10] [--out sheets]

Prompts count 1 to 10 of a thing, and place one thing beside or over another; things are those of --real whose drawings are in one
piece. A picture is right
  count     where as many pieces of it are opaque as were asked for (pieces of a thousandth of the picture and less do not count)
  place     where two pieces are, and the one that the judge, a run of the recipe `retrieval`, takes for the first thing rather than
            the second lies where the prompt says
The first row arranges the real drawings: what programs can be trusted with. Shares with 95 % intervals.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, label

from unnoise.control.layout.arranged import arranged
from unnoise.control.sampling import Start
from unnoise.core.errors import InputError
from unnoise.core.intervals import share
from unnoise.core.random import derive
from unnoise.evaluation.retrieval import Retrieval, load_retrieval
from unnoise.loading import load
from unnoise.modalities.image.scenes.emoji import PictureSprites, read_sprites
from unnoise.modalities.image.scenes.vocabulary import NUMBERS, plural
from unnoise.modalities.image.show import sheet

SIDE = 128
PLACES = {"left of": (1, 1), "right of": (1, -1), "above": (0, 1), "below": (0, -1)}
"""The axis (0 rows, 1 columns) along which the first of two lies before (1) or behind (-1) the second."""
Draw = Callable[[Sequence[str], Sequence[int]], np.ndarray]


def pieces(picture: np.ndarray) -> list[tuple[slice, slice]]:
    """Of uint8 RGBA (side, side, 4): the boxes of what is opaque and in one piece."""
    marks, n = label(picture[..., 3] > 127, np.ones((3, 3)))
    sizes = np.bincount(marks.ravel(), minlength=n + 1)[1:]
    return [box for box, size in zip(find_objects(marks), sizes) if size > marks.size / 1000]


def framed(picture: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 4) -> (64, 64, 4), as large as fits."""
    scale = 60 / max(picture.shape[:2])
    size = [max(1, round(n * scale)) for n in picture.shape[1::-1]]
    canvas = Image.new("RGBA", (64, 64))
    thing = Image.fromarray(picture).resize((size[0], size[1]), Image.Resampling.LANCZOS)
    canvas.paste(thing, ((64 - size[0]) // 2, (64 - size[1]) // 2))
    return np.asarray(canvas)


def placed_right(picture: np.ndarray, first: str, second: str, relation: str, judge: Retrieval) -> bool:
    found = pieces(picture)
    if len(found) != 2:
        return False
    a, b = judge.pictures(np.stack([framed(picture[box]) for box in found])) @ judge.texts([first, second]).T
    if a[1] + b[0] > a[0] + b[1]:
        found = found[::-1]
    axis, sign = PLACES[relation]
    middles = [box[axis].start + box[axis].stop for box in found]
    return sign * (middles[1] - middles[0]) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--judge", required=True)
    parser.add_argument("--each", type=int, default=10, help="prompts for every number, and for every place")
    parser.add_argument("--over", type=float, nargs="*", default=(0.1, 0.2), help="shares of the steps that go over it")
    parser.add_argument("--out", type=Path, help="a folder for sheets")
    args = parser.parse_args()
    model, judge, real = load(args.model), load_retrieval(args.judge), read_sprites(args.real)
    if getattr(model.codec.config, "channels", 0) != 4:
        raise InputError(f"{args.model} draws no transparency, by which things are counted here")
    names = [n for n in real.vocabulary.names if len(pieces(np.asarray(real.draw(n, "", SIDE, SIDE, 1)))) == 1]
    pick = np.random.Generator(np.random.Philox(key=0))
    counts = [(k, str(pick.choice(names))) for k in range(1, 11) for _ in range(args.each)]
    pairs = [(r, *(str(n) for n in pick.choice(names, 2, replace=False))) for r in PLACES for _ in range(args.each)]
    prompts = [f"{NUMBERS[k - 1]} {n if k == 1 else plural(n)}" for k, n in counts] + [f"a {a} {r} a {b}" for r, a, b in pairs]
    seeds = [derive(7, i) for i in range(len(prompts))]
    print(f"{args.model} (weights {model.hash()}), judged by {judge.name}; {len(names)} things in one piece")

    def own(some: Sequence[str], of: Sequence[int]) -> np.ndarray:
        return np.asarray(model.sample(list(some), sample_seeds=list(of)).data)

    rows: dict[str, Callable[[], np.ndarray]] = {
        "real drawings, arranged": lambda: arranged(prompts, seeds, drawn_by(real), SIDE),
        "drawn at once": lambda: own(prompts, seeds),
        "arranged": lambda: arranged(prompts, seeds, own, SIDE),
    }
    for part in args.over:
        rows[f"gone over, {part:g} of the steps"] = lambda part=part: np.asarray(
            model.sample(prompts, sample_seeds=seeds, start=Start(arranged(prompts, seeds, own, SIDE // 2), part)).data
        )
    for name, draw in rows.items():
        pictures = draw()
        told = [len(pieces(p)) == k for p, (k, _) in zip(pictures, counts)]
        lies = [placed_right(p, a, b, r, judge) for p, (r, a, b) in zip(pictures[len(counts) :], pairs)]
        each = " ".join(f"{k} {np.mean([t for t, (n, _) in zip(told, counts) if n == k]):.0%}" for k in range(1, 11))
        where = " ".join(f"{r} {np.mean([t for t, (n, *_) in zip(lies, pairs) if n == r]):.0%}" for r in PLACES)
        for what, ok, by in (("count", told, each), ("place", lies, where)):
            whole = share(sum(ok), len(ok))
            print(f"{name:<26} {what} {whole.value:6.1%} [{whole.low:.1%}, {whole.high:.1%}]   {by}", flush=True)
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            some = range(0, len(prompts), max(1, args.each // 2))
            sheet([pictures[i] for i in some], [prompts[i] for i in some], columns=10).save(
                args.out / f"{name.replace(' ', '-')}.png"
            )


def drawn_by(real: PictureSprites) -> Draw:
    """Their real drawings, in the middle of a transparent picture."""
    return lambda some, of: np.stack([framed(real.pictures[name]) for name in some])


if __name__ == "__main__":
    main()

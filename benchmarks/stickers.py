"""The model that ships, measured on what it was and was not trained on, by a retrieval network that was trained apart.

    python benchmarks/stickers.py stickers:FOLDER --model runs/stickers --judge runs/retrieval --out sheets

FOLDER: as in `unnoise train stickers:FOLDER`. Printed, each with its 95 % interval:

    codec       PSNR and SSIM of the model's autoencoder on drawings whose names were held out of all training, and of which no
                other skin tone was trained on either
    captions    random training captions, as often as training draws them (drawn scenes apart): how often the network picks the
                right caption out of 100; and by what they are of
    names       emoji by their bare names: the right name out of 100
    colours     of things in colours that recolouring held out ("a blue violin"), among 100 such: none that the thing's own drawings
                are near to (45 degrees of hue), or are called. And as those are mostly other things: "blue" of the same thing in
                the ten colours, beside what the model draws for the thing alone, which names no colour
    wearing     of hats on heads that never wore them ("a grinning face wearing a crown"), among 100 such and trained ones
    never       names that no picture was trained on, among 100 such and trained ones; and, drawings of one name being much alike,
                with the interval over names
    held out    of those: how far samples lie from the real drawings of those names, in the network's features, beside the floor:
                equally many real drawings of the trained names nearest in meaning
    warm        seconds for one picture, at the model's own number of steps, in float32 and in bfloat16

beside what the same network says of real pictures of the same captions, most of which it was trained on.
In --out: sheets of samples, and of the training pictures nearest to some of them.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unnoise.core import intervals
from unnoise.evaluation.frechet import frechet
from unnoise.evaluation.kernel import kid
from unnoise.evaluation.manifold import precision_recall
from unnoise.evaluation.retrieval import Names, Retrieval, load_retrieval
from unnoise.evaluation.ssim import ssim
from unnoise.loading import load
from unnoise.modalities.image.recolour import WIDTH, main_hue
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.vocabulary import COLOURS
from unnoise.modalities.image.show import save_png, sheet
from unnoise.modalities.image.sticker_set import Mix, read_drawings, read_stickers, sticker_folders
from unnoise.modalities.image.stickers import Compositions, Sticker
from unnoise.model import DiffusionModel


@dataclass(frozen=True)
class Unseen(Split):
    """Just the combinations that training holds out."""

    def held_colour(self, name: str, colour: str) -> bool:
        return not super().held_colour(name, colour)

    def held_count(self, name: str, count: int) -> bool:
        return not super().held_count(name, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--judge", required=True, help="a run of the recipe retrieval")
    parser.add_argument("--n", type=int, default=200, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guidance", type=float, help="the model's own by default")
    parser.add_argument("--out", type=Path, default=Path("sheets"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model, judge = load(args.model), load_retrieval(args.judge)
    folders, mix = sticker_folders(args.data), Mix()
    print(f"{args.model} (weights {model.hash()}), judged by {judge.name}")

    drawings = read_drawings(folders, 64)
    trained = {base(s) for s in drawings if not mix.holds_out(s.facts.name)}
    held = [s for s in drawings if mix.holds_out(s.facts.name) and base(s) not in trained]
    codec_line(model, np.stack([s.pixels for s in held]))
    pictures = [s for s in drawings if not mix.holds_out(s.facts.name) and not s.facts.variant]
    names = [s.facts.name for s in pictures]
    rng = np.random.default_rng(args.seed)
    rows = rng.permutation(len(names))[: args.n].tolist()
    real = np.stack([pictures[i].pixels for i in rows])
    choice = Names.of(judge, names)
    of_training(model, judge, folders, mix, args)
    judged(model, choice, "names", [names[i] for i in rows], real, args)
    asked: dict[str, tuple[list[str], list[np.ndarray]]] = {"colours": ([], []), "wearing": ([], [])}
    unseen = Compositions(pictures, 64, seed=1_000_003, split=Unseen())
    number = 0
    while min(len(said) for said, _ in asked.values()) < args.n:
        said = unseen.captions(number)[0]
        kind = "wearing" if " wearing " in said else "colours" if coloured(said) and not own_colour(said, pictures) else None
        if kind is not None and len(asked[kind][0]) < args.n:
            asked[kind][0].append(said)
            asked[kind][1].append(unseen.make(number))
        number += 1
    worn = Compositions(pictures, 64, seed=1_000_003)
    among = [said for number in range(20 * args.n) if " wearing " in (said := worn.captions(number)[0])]
    for kind, (captions, shown) in asked.items():
        choice_of = Names.of(judge, [*captions, *(among if kind == "wearing" else [])])
        judged(model, choice_of, kind, captions, np.stack(shown), args)
    told_colours(model, judge, asked["colours"][0], np.stack(asked["colours"][1]), args)
    asked_for = [s.facts.name for s in held]
    own, _ = judged(model, Names.of(judge, [*asked_for, *names]), "never", asked_for, np.stack([s.pixels for s in held]), args)
    each = intervals.mean(torch.stack([own[[n == name for n in asked_for]].mean() for name in dict.fromkeys(asked_for)]))
    print(f"            over {len(dict.fromkeys(asked_for))} names: {each.value:.1%} [{each.low:.1%}, {each.high:.1%}]")
    held_out(model, judge, held, pictures, args)
    nearest(model, pictures, names, rows, args)
    warm(model)


def of_training(model: DiffusionModel, judge: Retrieval, folders: Sequence[Path], mix: Mix, args: argparse.Namespace) -> None:
    """Among captions of four times as many rows."""
    drawn = read_stickers(folders, 64, replace(mix, scenes=0))
    rng = np.random.default_rng(args.seed)
    rows = rng.choice(len(drawn), 4 * args.n, p=np.asarray(drawn.weights) / sum(drawn.weights))
    said = [rng.choice(drawn.captions[row]) for row in rows]
    own, real = judged(model, Names.of(judge, said), "captions", said[: args.n], drawn.pictures(rows[: args.n]), args)
    kinds = np.array([drawn.names[row].rpartition("-")[0] for row in rows[: args.n]])
    for kind in dict.fromkeys(kinds):
        of = torch.from_numpy(kinds == kind)
        print(f"            {int(of.sum())} of {kind}: {float(own[of].mean()):.1%}, real pictures {float(real[of].mean()):.1%}")


def base(s: Sticker) -> str:
    """A name without skin tone and the like: "Santa Claus" of "Santa Claus: dark skin tone"."""
    return s.facts.name.partition(":")[0]


def own_colour(said: str, drawings: Sequence[Sticker]) -> bool:
    """Whether a coloured thing's own drawings have that colour, or one near to it, or say so in their name."""
    words = said.removeprefix("a ").removeprefix("an ").split(" ")
    colour, noun = words[0], " ".join(words[1:])
    hue = main_hue(np.array([[(*COLOURS[colour], 255)]], dtype=np.uint8))
    for s in (s for s in drawings if s.noun == noun):
        near = abs((main_hue(s.pixels) - hue + 0.5) % 1 - 0.5) < WIDTH
        if near or colour in s.facts.name.lower().split(" "):
            return True
    return False


def told_colours(model: DiffusionModel, judge: Retrieval, said: Sequence[str], real: np.ndarray, args: argparse.Namespace) -> None:
    """One line: the right one of the same thing's colours; of samples, of real pictures, and of samples of the thing alone."""
    colour_of = [next(w for w in s.split(" ")[:2] if w in COLOURS) for s in said]
    alone = [s.replace(f"{c} ", "", 1) for s, c in zip(said, colour_of)]
    colours = list(COLOURS)
    texts = judge.texts([f"{c} {thing.removeprefix('an ').removeprefix('a ')}" for thing in alone for c in colours])
    right = torch.tensor([colours.index(c) for c in colour_of])

    def share(pictures: np.ndarray) -> str:
        scores = torch.einsum("nd,ncd->nc", judge.pictures(pictures), texts.unflatten(0, (-1, len(colours))))
        found = intervals.mean((scores.argmax(1) == right).double())
        return f"{found.value:6.1%} [{found.low:.1%}, {found.high:.1%}]"

    made, plain = (np.asarray(model.sample(list(s), n=1, seed=args.seed, guidance=args.guidance).data) for s in (said, alone))
    print(
        f"            right of {len(colours)} colours: {share(made)};  real pictures {share(real)};  told no colour {share(plain)}",
        flush=True,
    )


def codec_line(model: DiffusionModel, drawings: np.ndarray) -> None:
    """Premultiplied, as the codec's states hold them: what a picture hides does not count."""
    made = np.asarray(model.codec.decode(model.codec.encode(drawings)))
    x, y = (premultiplied(p) for p in (drawings, made))
    errors = (x - y).square().flatten(1).mean(1)
    psnr = intervals.mean(10 * torch.log10(255**2 / errors.clamp(min=1e-9)))
    likeness = intervals.mean(ssim(x, y))
    print(
        f"codec       {len(x)} drawings of held-out names: PSNR {psnr.value:.1f} [{psnr.low:.1f}, {psnr.high:.1f}] dB, "
        f"SSIM {likeness.value:.3f} [{likeness.low:.3f}, {likeness.high:.3f}]"
    )


def premultiplied(pictures: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 4) -> float64 (N, 4, H, W), 0 to 255."""
    x = torch.from_numpy(pictures).double().movedim(-1, 1)
    return torch.cat([x[:, :3] * x[:, 3:] / 255, x[:, 3:]], 1)


def coloured(said: str) -> bool:
    """Whether a composition's caption is of one thing in a colour."""
    words = said.split(" ")
    return len(words) <= 4 and words[0] in ("a", "an", *COLOURS) and any(w in COLOURS for w in words[:2])


def judged(
    model: DiffusionModel, choice: Names, kind: str, said: Sequence[str], real: np.ndarray, args: argparse.Namespace
) -> tuple[Tensor, Tensor]:
    """One line: pictures of the model and real ones, and a sheet of the first 64. Returns, of each, how likely the
    network picks the right one: (N,)."""
    made = np.asarray(model.sample(list(said), n=1, seed=args.seed, guidance=args.guidance).data)
    found = tuple(torch.as_tensor(choice.recall(pictures, said)) for pictures in (made, real))
    own, theirs = (intervals.mean(f) for f in found)
    shown, among = (f"{m.value:6.1%} [{m.low:.1%}, {m.high:.1%}]" for m in (own, theirs)), min(100, len(choice.place))
    print(f"{kind:11} {len(said)} pictures, right among {among}: {next(shown)};  real pictures {next(shown)}", flush=True)
    save_png(args.out / f"{kind}.png", sheet(list(torch.from_numpy(made[:64])), list(said[:64]), columns=8, smallest=128), {})
    return found


def held_out(
    model: DiffusionModel, judge: Retrieval, held: Sequence[Sticker], trained: Sequence[Sticker], args: argparse.Namespace
) -> None:
    """Distances to real drawings of names never trained on: of samples for those names, and of the trained neighbours' drawings.

    A neighbour is a drawing of the name that the network's words put nearest, by the same vendor where that costs little
    likeness; none counts twice.
    """
    asked = [s.facts.name for s in held]
    made = np.asarray(model.sample(asked, n=1, seed=args.seed, guidance=args.guidance).data)
    near = judge.texts(asked) @ judge.texts([s.facts.name for s in trained]).T
    same = torch.tensor([[a.facts.style == b.facts.style for b in trained] for a in held])
    free, neighbours = torch.ones(len(trained), dtype=torch.bool), []
    for scores, style in zip(near, same):
        best = int((scores + style.float() * 0.5 - (~free).float() * 9).argmax())
        free[best] = False
        neighbours.append(trained[best].pixels)
    real = judge.pictures(np.stack([s.pixels for s in held]))
    for label, pixels in (("samples", made), ("neighbours", np.stack(neighbours))):
        x = judge.pictures(pixels)
        precision, recall = precision_recall(real, x)
        measured = {"Frechet": frechet(x, real), "KID": kid(x, real), "precision": precision, "recall": recall}
        said = ", ".join(f"{k} {v.value:.3f} [{v.low:.3f}, {v.high:.3f}]" for k, v in measured.items())
        print(f"held out    {len(x)} {label:10} to real drawings: {said}", flush=True)
    save_png(args.out / "held-out.png", sheet(list(torch.from_numpy(made[:64])), asked[:64], columns=8, smallest=128), {})


def nearest(
    model: DiffusionModel, drawings: Sequence[Sticker], names: Sequence[str], rows: Sequence[int], args: argparse.Namespace
) -> None:
    """How near samples are to training drawings, beside drawings to drawings; a sheet of eight above the nearest."""
    made = np.asarray(model.sample([names[i] for i in rows], n=1, seed=args.seed + 1, guidance=args.guidance).data)
    all_of = premultiplied(np.stack([s.pixels for s in drawings])).flatten(1)
    distance = torch.cdist(premultiplied(made).flatten(1), all_of)
    near = distance.argmin(1).tolist()
    among = torch.cdist(all_of[torch.tensor(rows)], all_of).topk(2, largest=False).values[:, 1]
    titles = [names[i] for i in rows[:8]] + [f"nearest: {names[i]}" for i in near[:8]]
    shown = [*torch.from_numpy(made[:8]), *(torch.from_numpy(drawings[i].pixels) for i in near[:8])]
    save_png(args.out / "nearest.png", sheet(shown, titles, columns=8, smallest=128), {})
    levels, apart = distance.min(1).values / all_of.shape[1] ** 0.5, among / all_of.shape[1] ** 0.5
    own = intervals.share(sum(names[i] == names[j] for i, j in zip(near, rows)), len(rows))
    print(
        f"nearest     {len(rows)} samples to training drawings: {quartiles(levels)} levels rms; drawings to one another: "
        f"{quartiles(apart)}; nearest to one of their own name: {own.value:.1%} [{own.low:.1%}, {own.high:.1%}]"
    )


def quartiles(x: Tensor) -> str:
    low, median, high = x.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype)).tolist()
    return f"median {median:.1f} (quarters {low:.1f}, {high:.1f})"


def warm(model: DiffusionModel) -> None:
    taken: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for seed in range(9):
        for name, seconds in taken.items():  # taking turns
            began = time.perf_counter()
            model.sample("a cat", n=1, seed=seed, bf16=name == "bfloat16")
            if seed > 0:
                seconds.append(time.perf_counter() - began)
    steps = model.config.sampling.steps
    for name, seconds in taken.items():
        print(
            f"warm        one picture, {steps} steps, {name}: median {statistics.median(seconds):.2f} s, least {min(seconds):.2f} s"
        )


if __name__ == "__main__":
    main()

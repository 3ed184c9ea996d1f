"""The network that judges what a sticker model draws: trained, and measured on drawings that it never saw.

    python benchmarks/judge.py $UNNOISE_DATA --out runs/judge [--steps 2700] [--measure]

It learns from nine tenths of the emoji, from all icons, and from compositions of those emoji (beside each other, counted, wearing
hats, before backgrounds, in other colours); no combination is kept from it, for it judges whether others can make them. It goes on
where it was stopped. Held out, by a hash of their file names, is every tenth drawing, whatever is made of it:

    names        the drawings, each name among 100 of all emoji names; by maker, and whether another drawing of the name was seen
    recoloured   drawings of one hue in each of the colours: "blue banana" among 100 such captions, and among the ten colours alone
    compositions of held-out drawings (hats: any): the caption among 100 of the same kind

Each with its 95 % interval over pictures. --measure: of what is in --out, without training.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unnoise.core import intervals
from unnoise.evaluation.retrieval import AMONG, Names, Retrieval, load_retrieval, save_retrieval
from unnoise.modalities.conditioning import normalised
from unnoise.modalities.image.annotations import annotate
from unnoise.modalities.image.data import InMemory, PictureData, PictureOptions
from unnoise.modalities.image.decode import SUFFIXES
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.recaption import VARIANTS, Facts, Recaption
from unnoise.modalities.image.recolour import recoloured
from unnoise.modalities.image.scenes.split import Split
from unnoise.modalities.image.scenes.vocabulary import COLOURS
from unnoise.modalities.image.sources import entries
from unnoise.modalities.image.stickers import Compositions, Plan, Sticker, before, beside, counted, painted, wearing
from unnoise.recipes.options import Options
from unnoise.recipes.retrieval import retrieval
from unnoise.recipes.sources import OpenPictures, PictureSource

SIDE, HELD_OUT, SEED = 64, 0.1, 1
COMPOSITIONS = 14_000
MEASURED = 300
"""Compositions of each kind that are measured."""
SHARES = {"emoji": 0.55, "icons": 0.12, "compositions": 0.33}
RARE = {VARIANTS: 0.4, "flags": 0.4}
"""How often emoji of these groups are drawn, against the others."""
OPTIONS = PictureOptions(size=SIDE, alpha=True, flip=True, caption_bytes=80, recaption=Recaption(count=10, short=0.4), weights=RARE)


def emoji(folder: Path) -> tuple[PictureData, dict[str, Sticker]]:
    """All of them, and as stickers by file name."""
    data = read_pictures(folder, OPTIONS, progress=False)
    fine = read_pictures(folder, PictureOptions(size=72, largest=72, alpha=True), progress=False)
    files = entries(folder)
    pictures = [e for e in files if e.suffix in SUFFIXES]
    facts = annotate(pictures, [e for e in files if e.suffix not in SUFFIXES]).facts
    said = {e.name: f for e, f in zip(pictures, facts) if isinstance(f, Facts)}
    rows = fine.pictures(range(len(fine)))
    return data, {name: Sticker(x, said[name]) for name, x in zip(fine.names, rows) if name in said}


def icons(folder: Path) -> PictureData:
    """White on black becomes black on nothing."""
    data = read_pictures(folder, PictureOptions(size=SIDE, flip=True), progress=False)
    ink = data.pictures(range(len(data)))[..., :1]
    captions = tuple((c[0], f"icon of {c[0]}", f"{c[0]}, black icon") if c else () for c in data.captions)
    pixels = InMemory(np.concatenate([np.zeros((*ink.shape[:3], 3), np.uint8), ink], -1))
    return replace(data, pixels=pixels, channels=4, captions=captions, classes=None, rows=None)


def drawn(plan: Plan) -> np.ndarray:
    return np.asarray(plan.draw().resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def compositions(stickers: Sequence[Sticker]) -> PictureData:
    made = Compositions(stickers, SIDE, SEED, Split(0.0))
    array = np.stack([made.make(i) for i in range(COMPOSITIONS)])
    captions = tuple(made.captions(i) for i in range(COMPOSITIONS))
    names = tuple(f"composition {i}" for i in range(COMPOSITIONS))
    return PictureData(InMemory(array), SIDE, SIDE, 4, names, captions, None, (), (), OPTIONS)


def together(kinds: dict[str, PictureData]) -> PictureData:
    """All rows, each kind drawn as often as SHARES says."""
    parts = list(kinds.values())
    weights = [np.ones(len(d)) if d.weights is None else np.asarray(d.weights) for d in parts]
    shares = [SHARES[k] for k in kinds]
    notes = (", ".join(f"{len(d):,} {k}" for k, d in kinds.items()),)
    return PictureData(
        InMemory(np.concatenate([d.pictures(range(len(d))) for d in parts])), SIDE, SIDE, 4,
        tuple(n for d in parts for n in d.names), tuple(c for d in parts for c in d.captions), None, (), notes, OPTIONS,
        weights=tuple(np.concatenate([s * w / w.sum() for s, w in zip(shares, weights)]).tolist()),
    )  # fmt: skip


def train(data: PictureData, folder: Path, out: Path, options: Options) -> Retrieval:
    out.mkdir(parents=True, exist_ok=True)
    opened = OpenPictures(data)
    run = retrieval(opened, PictureSource(str(folder)), options)
    return run.fit(opened, out, resume=(out / "checkpoints").exists())


# -- measures ------------------------------------------------------------------------------------------------------------------


def among_names(network: Retrieval, everything: PictureData, held: PictureData, rest: PictureData) -> dict[str, Tensor]:
    names = Names.of(network, [c[0] for c in everything.captions if c])
    told = [i for i, c in enumerate(held.captions) if c]
    found = names.recall(held.pictures(told), [held.captions[i][0] for i in told])
    known = {normalised(c[0]) for c in rest.captions if c}
    seen = torch.tensor([normalised(held.captions[i][0]) in known for i in told])
    makers = np.array([held.names[i].rpartition("/")[0] for i in told])
    by_maker = {f"names, {m}": found[torch.from_numpy(makers == m)] for m in sorted(set(makers))}
    return {"names, all": found, "names, other drawings seen": found[seen], "names, never seen": found[~seen], **by_maker}


def among_captions(network: Retrieval, pictures: np.ndarray, captions: Sequence[str]) -> Tensor:
    """Each caption among 100 of all these."""
    return Names.of(network, captions).recall(pictures, captions)


def in_colours(network: Retrieval, made: Compositions) -> dict[str, Tensor]:
    colours = [c for c in COLOURS if c != "black"]
    things = [s for s in made.paintable if len(s.noun.split()) <= 2]
    painted_ = [Image.fromarray(recoloured(s.pixels, COLOURS[c])).resize((SIDE, SIDE)) for s in things for c in colours]
    pictures, captions = np.stack([np.asarray(p) for p in painted_]), [f"{c} {s.noun}" for s in things for c in colours]
    looked, texts = network.pictures(pictures), network.texts(captions)
    same = (looked[:, None] * texts.unflatten(0, (-1, len(colours))).repeat_interleave(len(colours), 0)).sum(-1)
    right = torch.arange(len(captions)) % len(colours)
    return {
        "recoloured": among_captions(network, pictures, captions),
        f"recoloured, colour among {len(colours)}": (same.argmax(1) == right).double(),
    }


def composed(network: Retrieval, made: Compositions, hatted: Compositions) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    kinds: dict[Callable[[Compositions, np.random.Generator], Plan | None], Compositions] = {
        beside: made, counted: made, before: made, painted: made, wearing: hatted,
    }  # fmt: skip
    for kind, of in kinds.items():
        rng, plans = np.random.default_rng(SEED), dict[str, Plan]()
        for _ in range(20 * MEASURED):
            plan = kind(of, rng)
            if plan is not None and len(plans) < MEASURED:
                plans.setdefault(plan.captions[0], plan)
        pictures = np.stack([drawn(p) for p in plans.values()])
        out[f"{kind.__name__} ({len(plans)} captions)"] = among_captions(network, pictures, list(plans))
    return out


def line(title: str, values: Tensor) -> str:
    if len(values) < 2:
        return f"{title:<40} {len(values):>5}"
    found = intervals.mean(values)
    return f"{title:<40} {len(values):>5}  {found.value:6.1%} ({max(0, found.low):.1%} - {min(1, found.high):.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--batch", type=int, default=160)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--measure", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    everything, stickers = emoji(asked.data / "emoji")
    rest, held = everything.split(HELD_OUT)
    seen = [stickers[n] for n in rest.names if n in stickers]
    if asked.measure:
        network = load_retrieval(asked.out)
    else:
        data = together({"emoji": rest, "icons": icons(asked.data / "icons"), "compositions": compositions(seen)})
        network = train(data, asked.data, asked.out, Options(steps=asked.steps, batch=asked.batch, width=asked.width))
    unseen = [stickers[n] for n in held.names if n in stickers]
    alone = Compositions(unseen, SIDE, SEED, Split(0.0))
    hatted = Compositions([*unseen, *Compositions(seen, SIDE).hats], SIDE, SEED, Split(0.0))
    found = {**among_names(network, everything, held, rest), **in_colours(network, alone), **composed(network, alone, hatted)}
    print(f"{network.name}: recall@1 among {AMONG}\n")
    for title, values in found.items():
        print(line(title, values))
    metrics = {f"recall@1 among {AMONG}: {k}": float(v.mean()) for k, v in found.items() if len(v) > 1}
    save_retrieval(asked.out / "model", replace(network.config, metrics=metrics), network.network)


if __name__ == "__main__":
    main()

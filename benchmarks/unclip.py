"""unCLIP trained on handwritten digits: does what the prior dreams up look like what it was told, and does an embedding say more?

    python -c "from unnoise.modalities.image.examples import write_digits; write_digits('digits')"
    unnoise train digits --recipe retrieval --out embedder --steps 600 --data.options.held-out 0.1
    unnoise train digits --recipe unclip-prior --embedder embedder --out prior --width 128 --depth 3 --data.options.held-out 0.1
    unnoise train digits --recipe unclip-decoder --embedder embedder --out decoder --width 128 --depth 4 --data.options.held-out 0.1
    python benchmarks/unclip.py prior decoder --data digits

A judge that knows none of them, the nearest of the training digits' three in pixels, says what a picture shows; 95 % intervals.
  words      the prior is told a name, the decoder its embedding and the name
  picture    the decoder is given the embedding of a real digit that was held out, and no words: a variation of it
  other      the same of another digit of the same name: what a variation has in common with its picture is more than the name
             where its embedding lies nearer to that picture's than to the other's
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unnoise.core.intervals import share
from unnoise.evaluation.two_sample import Energy, floor
from unnoise.loading import load
from unnoise.modalities.image.embeddings import Embeddings
from unnoise.modalities.image.examples import DIGITS
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.show import sheet
from unnoise.recipes.cascade import go_on


def flat(pictures: np.ndarray | Tensor) -> Tensor:
    return torch.as_tensor(pictures).flatten(1).double() / 255


def named(pictures: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """(N,): what most of the three nearest are; of three different ones the nearest."""
    near = labels[torch.cdist(pictures, known).topk(3, largest=False).indices]
    return torch.where(near[:, 1] == near[:, 2], near[:, 1], near[:, 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prior")
    parser.add_argument("decoder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--held-out", type=float, default=0.1)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--out", type=Path, help="a picture of what was drawn")
    args = parser.parse_args()
    prior, decoder = load(args.prior), load(args.decoder)
    look = prior.codec
    if not isinstance(look, Embeddings):
        raise SystemExit(f"{args.prior} is no prior of embeddings")
    rest, held = read_pictures(args.data, progress=False).split(args.held_out)
    known, truth = flat(rest.pictures(range(len(rest)))), labels_of(rest.captions)
    pictures = torch.as_tensor(held.pictures(range(len(held))))
    real, its = flat(pictures), labels_of(held.captions)
    print(f"{len(rest)} digits to judge by, {len(held)} held out; judged right of these {said(named(real, known, truth) == its)}")

    each = args.n // len(DIGITS)
    asked = torch.arange(len(DIGITS)).repeat_interleave(each)
    made = go_on(prior.sample(DIGITS, each, seed=3), [decoder])
    drawn = flat(made.data)
    print(f"words     the name that was told     {said(named(drawn, known, truth) == asked)}")
    energy = Energy(unbiased=False)
    a, b = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))].tensor_split(2)
    some = drawn[torch.linspace(0, len(drawn) - 1, len(a)).long()]  # as many as the floor has
    print(f"          energy distance to real digits {energy(some, b):.4f}, between real ones {floor(energy, a, b).mean:.4f}")

    seeds = list(range(1000, 1000 + len(held)))
    embedding = look.decode(look.encode(pictures))
    varied = decoder.sample([None] * len(held), sample_seeds=seeds, given={"embedding": embedding})
    again = flat(varied.data)
    print(f"picture   shows what its picture shows {said(named(again, known, truth) == its)}")
    seen = look.decode(look.encode(torch.as_tensor(varied.data)))
    other = torch.tensor([next(j for j in [*range(i + 1, len(its)), *range(i)] if its[j] == its[i]) for i in range(len(its))])
    own, others = ((seen * e).sum(-1) for e in (embedding, embedding[other]))
    print(f"other     nearer to its own picture's embedding {said(own > others)}; cosines {own.mean():.3f}, {others.mean():.3f}")
    if args.out:
        shown = [p for i in range(10) for p in (np.asarray(pictures[i]), np.asarray(varied.data[i]))]
        words = [np.asarray(made.data[i * each]) for i in range(len(DIGITS))]
        sheet([*words, *shown], [*DIGITS, *(["real", "varied"] * 10)], columns=10, smallest=48).save(args.out)


def labels_of(captions: tuple[tuple[str, ...], ...]) -> Tensor:
    return torch.tensor([DIGITS.index(c[0]) for c in captions])


def said(right: Tensor) -> str:
    s = share(int(right.sum()), len(right))
    return f"{s.value:.1%} [{s.low:.1%}, {s.high:.1%}]"


if __name__ == "__main__":
    main()

"""How well a distilled text encoder agrees with its teacher, on texts that it has not learnt from.

    python benchmarks/text_encoder.py RUN TEXTS

RUN is what the recipe `distil-text` made; TEXTS a file of texts that were kept from it, one a line (captions of another set). For
each kind of text: the mean cosine of student and teacher; and of the ten words of the vocabulary nearest to a text by the teacher,
how many are among the student's ten nearest (recall@10, of GALLERY words), with 95 % intervals. The floor is a student that is
given other texts of the same kind. Kinds: the texts; their words that no single piece of the vocabulary fits; and pairs made of the
vocabulary's words, drawn by another seed than the training's.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from unnoise.core import intervals
from unnoise.modalities.words.emphasis import Emphatic
from unnoise.modalities.words.frozen import read_encoder
from unnoise.modalities.words.pieces import words
from unnoise.recipes.distil_text import COLOURS
from unnoise.recipes.text_encoders import load_distilled

GALLERY, NEAREST, MOST, AT_ONCE = 4000, 10, 1500, 128


@torch.no_grad()
def vectors(encoder: Emphatic, texts: list[str]) -> Tensor:
    """(n, D), of length 1."""
    parts = [texts[a : a + AT_ONCE] for a in range(0, len(texts), AT_ONCE)]
    return normalize(torch.cat([encoder(encoder.prepare(some))["vector"] for some in parts]), dim=-1)


def recall(mine: Tensor, theirs: Tensor, my_words: Tensor, their_words: Tensor) -> Tensor:
    """For each text the share of the teacher's nearest words that are among the student's."""
    a, b = ((x @ w.T).topk(NEAREST).indices for x, w in ((mine, my_words), (theirs, their_words)))
    return (a[:, :, None] == b[:, None, :]).any(-1).float().mean(1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("texts", type=Path)
    args = parser.parse_args()
    rng = random.Random(7)
    student = load_distilled(args.run)
    teacher = read_encoder(student.config.teacher.partition(",")[0]).build()
    known = [p for p in student.config.vocabulary.split("\n")[3:] if p.isalpha() and len(p) > 2]
    texts = sorted({line.strip() for line in args.texts.read_text(encoding="utf-8").splitlines() if line.strip()})
    apart = {w for t in texts for w in words(t) if w.isalpha() and len(student.pieces.ids(w)) > 1}
    coloured = [f"{rng.choice(COLOURS)} {rng.choice(known)}" for _ in range(500)]
    two = [f"{rng.choice(known)} and {rng.choice(known)}" for _ in range(500)]
    kinds = {
        "texts": rng.sample(texts, min(MOST, len(texts))),
        "words of several pieces": sorted(apart)[:MOST],
        "pairs": coloured + two,
    }
    gallery = rng.sample(known, min(GALLERY, len(known)))
    mine, theirs = vectors(student, gallery), vectors(teacher, gallery)
    weights = sum(p.numel() for p in student.parameters())
    print(f"student: {weights / 1e6:.2f}M weights, {2 * weights / 1e6:.1f} MB in bfloat16; teacher: {student.config.teacher}")
    print(f"{'kind':26} {'n':>5}  {'cosine':20} {'floor':>6}  {f'recall@{NEAREST}':20} {'floor':>6}")
    for kind, some in kinds.items():
        if len(some) < 2:
            continue
        a, b = vectors(student, some), vectors(teacher, some)
        other = a.roll(1, 0)
        sure = [intervals.mean(measure) for measure in ((a * b).sum(1), recall(a, b, mine, theirs))]
        found = [f"{i.value:.3f} ({i.low:.3f} ... {i.high:.3f})" for i in sure]
        floors = float((other * b).sum(1).mean()), float(recall(other, b, mine, theirs).mean())
        print(f"{kind:26} {len(some):5}  {found[0]:20} {floors[0]:6.3f}  {found[1]:20} {floors[1]:6.3f}")
    for name, encoder in (("student", student), ("teacher", teacher)):
        new = [f"{t}, once more" for t in texts[:256]]  # a frozen encoder remembers what it was asked
        began = time.perf_counter()
        vectors(encoder, new)
        print(f"{name}: {1000 * (time.perf_counter() - began) / len(new):.2f} ms a text, {AT_ONCE} together")


if __name__ == "__main__":
    main()

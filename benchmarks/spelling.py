"""What `--spelling` is worth: signs of two to four capitals, drawn by networks that are told them with and without their letters.

    python benchmarks/spelling.py draw signs
    unnoise train signs/trained --recipe pictures --text-encoder sentence-transformers/all-MiniLM-L6-v2 --out frozen \\
        --width 128 --depth 4 --steps 3000 --batch 64 --model.network.patch 4
    ... --out frozen-spelled --spelling                      the same told its letters too
    python benchmarks/spelling.py read signs frozen frozen-spelled --out samples

`draw` writes 3,000 signs of 12 x 40 pixels, one a word, black on white, each letter in a slot of its own, with captions such as
`a sign that says "KEY"`; and a list of words that none of them has, whose every letter they have in that place. Half of the words
are pieces of the frozen encoder's vocabulary (KEY), which it knows as wholes; half are letters drawn at random (QZK), which it
takes apart into shorter pieces. `read` has each network draw words of both lists and reads every slot: the letter, or none, whose
drawing is nearest in pixels. A letter is right in its place; a word is right if its letters are, with nothing behind them. 95 %
intervals over words.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase as LETTERS

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unnoise.core.intervals import share
from unnoise.loading import load
from unnoise.modalities.image.show import save_png, sheet
from unnoise.modalities.words.frozen import read_encoder

SLOTS, WIDE, HIGH = 4, 10, 12
TRAINED = {2: 150, 3: 500, 4: 850}
"""Words of each kind by length; so many are drawn of each kind and length to be read: EACH."""
EACH = 70
KINDS = ("known", "random")


def drawn(word: str) -> np.ndarray:
    """uint8 (12, 40): the word from the left, each letter in the middle of its slot."""
    picture = Image.new("L", (SLOTS * WIDE, HIGH), 255)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for i, letter in enumerate(word):
        left, _, right, _ = font.getbbox(letter)
        pen.text((i * WIDE + (WIDE - right + left) // 2 - left, -2), letter, fill=0, font=font)
    return np.asarray(picture)


def slots(pictures: np.ndarray) -> Tensor:
    """(N, 12, 40) -> (N, 4, 120)"""
    x = torch.as_tensor(pictures).double().unflatten(2, (SLOTS, WIDE))
    return x.transpose(1, 2).flatten(2)


def read(pictures: np.ndarray) -> list[str]:
    """What is written; a space for an empty slot."""
    signs = [*LETTERS, " "]
    known = slots(np.stack([drawn(s) for s in signs]))[:, 0]
    near = torch.cdist(slots(pictures), known[None]).argmin(-1)
    return ["".join(signs[int(i)] for i in row) for row in near]


def prompt(word: str) -> str:
    return f'a sign that says "{word}"'


def choose(vocabulary: Sequence[str], seed: int = 0) -> dict[str, dict[str, list[str]]]:
    """{"trained" and "held": {kind: words}}, the held ones as many of each length."""
    rng = np.random.default_rng(seed)
    pieces = {v.upper() for v in vocabulary if re.fullmatch("[a-z]{2,4}", v)}
    found: dict[str, dict[str, list[str]]] = {"trained": {}, "held": {}}
    for kind in KINDS:
        trained, held = list[str](), list[str]()
        for length, count in TRAINED.items():
            there = sorted(p for p in pieces if len(p) == length)
            if kind == "random":
                made = {"".join(rng.choice(list(LETTERS), length)) for _ in range(20_000)}
                there = sorted(made - pieces)
            words = [there[i] for i in rng.permutation(len(there))[: count + EACH]]
            if len(words) < count + EACH:
                raise SystemExit(f"{len(words)} {kind} words of {length} letters, {count + EACH} wanted")
            held += words[:EACH]
            trained += words[EACH:]
        found["trained"][kind], found["held"][kind] = trained, held
    places = {(i, c) for words in found["trained"].values() for w in words for i, c in enumerate(w)}
    assert len(places) == SLOTS * len(LETTERS), "a letter is never in some place"
    return found


def draw(out: Path, encoder: str) -> None:
    tokenizer = read_encoder(encoder).build().opened.tokenizer
    words = choose(sorted(tokenizer.get_vocab()))
    pictures = out / "trained"
    pictures.mkdir(parents=True)
    with (pictures / "metadata.jsonl").open("w") as sheet_of_captions:
        for word in sorted(w for several in words["trained"].values() for w in several):
            Image.fromarray(drawn(word)).save(pictures / f"{word}.png")
            sheet_of_captions.write(json.dumps({"file_name": f"{word}.png", "text": prompt(word)}) + "\n")
    (out / "words.json").write_text(json.dumps(words))


def said(right: Sequence[float]) -> str:
    s = share(sum(right), len(right))
    return f"{s.value:6.1%} [{s.low:.1%}, {s.high:.1%}]"


def score(models: Sequence[str], words: dict[str, dict[str, list[str]]], out: Path | None) -> None:
    held = [w for several in words["held"].values() for w in several]
    seen = read(np.stack([drawn(w) for w in held]))
    print(f"real signs of held-out words read right: {sum(s.strip() == w for s, w in zip(seen, held))} of {len(held)}\n")
    rng = np.random.default_rng(1)
    for name in models:
        model = load(name)
        print(f"{name}\n{'':<26} {'letters right':>26} {'words right':>26}")
        shown: list[tuple[np.ndarray, str]] = []
        for part in ("trained", "held"):
            for kind in KINDS:
                whole, letters = list[float](), list[float]()
                for length in TRAINED:
                    there = [w for w in words[part][kind] if len(w) == length]
                    asked = [there[i] for i in rng.permutation(len(there))[:EACH]]
                    made = np.asarray(model.sample([prompt(w) for w in asked], seed=length).data)[..., 0]
                    seen = read(made)
                    right = [float(s.rstrip() == w) for s, w in zip(seen, asked)]
                    some = [sum(a == b for a, b in zip(s, w)) / length for s, w in zip(seen, asked)]
                    print(f"{f'{part}, {kind}, {length}':<26} {said(some):>26} {said(right):>26}")
                    whole, letters = whole + right, letters + some
                    shown += [(made[i], f"{asked[i]}: {seen[i].rstrip()}") for i in range(8)]
                print(f"{f'{part}, {kind}, all':<26} {said(letters):>26} {said(whole):>26}")
        if out is not None:
            out.mkdir(exist_ok=True)
            pictures, titles = [s[0][..., None] for s in shown], [s[1] for s in shown]
            save_png(out / f"{Path(name).name}.png", sheet(pictures, titles, columns=8, smallest=48), {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("draw", "read"))
    parser.add_argument("signs", type=Path)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--text-encoder", default="sentence-transformers/all-MiniLM-L6-v2", help="whose pieces are the known words")
    parser.add_argument("--out", type=Path, help="a folder for sheets of what was drawn")
    args = parser.parse_args()
    if args.do == "draw":
        draw(args.signs, args.text_encoder)
    else:
        score(args.models, json.loads((args.signs / "words.json").read_text()), args.out)


if __name__ == "__main__":
    main()

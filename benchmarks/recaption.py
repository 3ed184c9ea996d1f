"""What `--recaption` is worth: one network told the names of its drawings alone, and one told several longer captions of each.

    python benchmarks/recaption.py cut $UNNOISE_DATA/emoji/twemoji_72px.zip drawings
    unnoise train drawings --recipe pictures --text-encoder sentence-transformers/all-MiniLM-L6-v2 --out plain \\
        --size 32 --width 128 --depth 4 --steps 2000 --batch 64 --model.network.patch 8
    ... --out recaptioned --recaption                        the same but for that
    python benchmarks/recaption.py ask drawings plain recaptioned --out samples

`cut` writes the animals and the food of one maker, with their names as captions, and their keywords and groups beside them.
`ask` prompts both with what neither was trained on but for the names, one sample a prompt:

  names               the caption of `plain`, one in ten of `recaptioned`
  all, with the name  "something of food drink to do with dog and sausage and hot, and its name is hot dog": other words and order
  all but the name    the same without its end; right is every drawing of the group that has all of these keywords
  a keyword, in names that is no drawing's name, but a word within one; right is every drawing that has it
  a keyword, in none  that is not even that

A sample is right if the training drawing nearest to it is one that the prompt describes; 95 % intervals over prompts. Nearest in
pixels, and, kinder to what is pale or too bold, by the correlation of pixels.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

from unnoise.core.intervals import share
from unnoise.loading import load
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.reading import read_pictures
from unnoise.modalities.image.recaption import Facts
from unnoise.modalities.image.show import save_png, sheet

GROUPS = ("animals-nature", "food-drink")
SIDE, MOST = 32, 300
"""Pixels; prompts of a kind."""


def cut(source: Path, out: Path) -> None:
    out.mkdir(parents=True)
    with ZipFile(source) as packed, (out / "metadata.jsonl").open("w") as rows:
        for line in packed.read("captions.jsonl").decode().splitlines():
            row = json.loads(line)
            if row["group"] in GROUPS:
                (out / row["file"]).write_bytes(packed.read(row["file"]))
                said = {"file_name": row["file"], "text": row["name"]} | {k: row[k] for k in ("name", "keywords", "group")}
                rows.write(json.dumps(said) + "\n")


def flat(pictures: Any) -> Tensor:
    return torch.as_tensor(np.asarray(pictures)).flatten(1).double()


def likeness(pictures: Any) -> Tensor:
    """Rows whose nearest ones are those that they correlate with best."""
    x = flat(pictures)
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-9)


def described(facts: Sequence[Facts], seed: int = 0) -> dict[str, list[tuple[str, Tensor]]]:
    """For each kind, prompts and which drawings (N,) each describes."""
    rng = np.random.default_rng(seed)
    names = {f.name.lower() for f in facts}
    within = {w for n in names for w in n.replace("-", " ").split()}
    keywords = [{k.lower() for k in f.keywords} for f in facts]

    def named(name: str) -> Tensor:
        return torch.tensor([f.name == name for f in facts])

    kinds: dict[str, list[tuple[str, Tensor]]] = {"names": [(f.name, named(f.name)) for f in facts]}
    with_name, without = list[tuple[str, Tensor]](), list[tuple[str, Tensor]]()
    for f, own in zip(facts, keywords):
        if len(f.keywords) >= 2:
            said = f"something of {f.group} to do with {' and '.join(rng.permutation(f.keywords))}"
            fits = [other.group == f.group and own <= theirs | {other.name.lower()} for other, theirs in zip(facts, keywords)]
            with_name.append((f"{said}, and its name is {f.name}", named(f.name)))
            without.append((said, torch.tensor(fits)))
    kinds |= {"all, with the name": with_name, "all but the name": without}
    alone = sorted({k for several in keywords for k in several} - names)
    for kind, some in (
        ("a keyword, in names", [k for k in alone if k in within]),
        ("a keyword, in none", [k for k in alone if k not in within]),
    ):
        kinds[kind] = [(k, torch.tensor([k in theirs for theirs in keywords])) for k in some]
    return {kind: [several[i] for i in sorted(rng.permutation(len(several))[:MOST])] for kind, several in kinds.items()}


def ask(data: Path, models: Sequence[str], out: Path | None) -> None:
    opened = read_pictures(data, PictureOptions(size=SIDE), progress=False)
    rows = {r["file_name"]: r for r in map(json.loads, (data / "metadata.jsonl").read_text().splitlines())}
    facts = [f for n in opened.names if (f := Facts.of(rows[n])) is not None]
    pictures = np.asarray(opened.pictures(range(len(opened))))
    known, alike = flat(pictures), likeness(pictures)
    shifted, own = np.roll(pictures, 1, axis=2), torch.arange(len(known))
    again = (torch.cdist(flat(shifted), known).argmin(1) == own).double()
    too = (torch.cdist(likeness(shifted), alike).argmin(1) == own).double()
    print(f"{len(known)} drawings; each, a pixel further right, is nearest to itself: {said(again)}; correlation {said(too)}\n")
    asked = described(facts)
    for name in models:
        model = load(name)
        print(f"{name}\n{'':<22} {'prompts':>7} {'right':>22} {'by correlation':>22} {'by chance':>10} {'rms to the nearest':>19}")
        shown: list[tuple[np.ndarray, str]] = []
        for kind, prompts in asked.items():
            made = np.concatenate(
                [np.asarray(model.sample([p for p, _ in prompts[a : a + 64]], seed=a).data) for a in range(0, len(prompts), 64)]
            )
            distance = torch.cdist(flat(made), known)
            right = judged(prompts, distance)
            too = judged(prompts, torch.cdist(likeness(made), alike))
            chance = float(torch.stack([fits for _, fits in prompts]).double().mean())
            rms = float((distance.min(1).values / known.shape[1] ** 0.5).median())
            print(f"{kind:<22} {len(prompts):>7} {said(right):>22} {said(too):>22} {chance:>10.1%} {rms:>19.1f}")
            for i in torch.linspace(0, len(prompts) - 1, 16).long().tolist():
                shown.append((made[i], f"{'+' if right[i] else '-'} {prompts[i][0].removeprefix('something of ')}"))
        if out is not None:
            out.mkdir(exist_ok=True)
            save_png(out / f"{Path(name).name}.png", sheet(*zip(*shown), columns=8, smallest=64), {})


def judged(prompts: Sequence[tuple[str, Tensor]], distance: Tensor) -> Tensor:
    """(N,): whether the drawing nearest to each sample is one that its prompt describes."""
    return torch.stack([fits[i] for (_, fits), i in zip(prompts, distance.argmin(1))]).double()


def said(right: Tensor) -> str:
    s = share(float(right.sum()), len(right))
    return f"{s.value:.1%} [{s.low:.1%}, {s.high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="do", required=True)
    cutting, asking = actions.add_parser("cut"), actions.add_parser("ask")
    cutting.add_argument("source", type=Path)
    cutting.add_argument("drawings", type=Path)
    asking.add_argument("drawings", type=Path)
    asking.add_argument("models", nargs="+")
    asking.add_argument("--out", type=Path, help="a folder for sheets of what was drawn")
    args = parser.parse_args()
    if args.do == "cut":
        cut(args.source, args.drawings)
    else:
        ask(args.drawings, args.models, args.out)


if __name__ == "__main__":
    main()

"""A retrieval network on pictures that it never saw: how often it picks the right name out of a hundred.

    unnoise train $UNNOISE_DATA/emoji --recipe retrieval --recaption --size 64 --data.options.held-out 0.1 --out runs/retrieval
    python benchmarks/retrieval.py runs/retrieval [--only VENDOR ...]

RUN: a run of the recipe `retrieval` that held pictures out (by a hash of their names). Printed for each sub-folder or zip of the
set (a vendor), for names that a training picture of another vendor has (the concept is known, the drawing is not) and for those
that none has, each with its 95 % interval: the probability that the name is picked among 100, and among all names of the set.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.evaluation.retrieval import AMONG, Names, load_retrieval, recall_at_1
from unnoise.modalities.conditioning import normalised
from unnoise.modalities.image.data import PictureData
from unnoise.recipes.retrieval import RetrievalRun
from unnoise.recipes.runs import load_run
from unnoise.recipes.sources import OpenPictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--only", nargs="*", default=None)
    asked = parser.parse_args()
    run, _ = load_run(asked.run)
    if not isinstance(run, RetrievalRun) or run.data.options.held_out == 0:
        raise InputError(f"{asked.run}: not a run of the recipe retrieval that held pictures out (--data.options.held-out 0.1)")
    opened = run.data.open(progress=False)
    assert isinstance(opened, OpenPictures)
    rest, held = opened.pictures.split(run.data.options.held_out)
    network = load_retrieval(asked.run)
    names = Names.of(network, [c[0] for c in opened.pictures.captions if c])
    known = {normalised(c[0]) for c in rest.captions if c}
    print(f"{network.name}: {len(held)} held-out pictures, {len(names.place):,} names\n")
    print(f"{'pictures':<28} {'n':>5} {'among ' + str(AMONG):>22} {'among all':>22}")
    vendors = sorted({n.rpartition("/")[0] for n in held.names})
    for vendor in asked.only or vendors:
        _line(vendor or "all of them", names, held, [i for i, n in enumerate(held.names) if n.rpartition("/")[0] == vendor])
    told = [i for i, c in enumerate(held.captions) if c]
    _line("name known of other drawings", names, held, [i for i in told if normalised(held.captions[i][0]) in known])
    _line("name never seen", names, held, [i for i in told if normalised(held.captions[i][0]) not in known])
    _line("all", names, held, told)


def _line(title: str, names: Names, held: PictureData, rows: Sequence[int]) -> None:
    rows = [i for i in rows if held.captions[i]]
    if len(rows) < 2:
        print(f"{title:<28} {len(rows):>5} {'-':>22} {'-':>22}")
        return
    looked = names.retrieval.pictures(held.pictures(rows))
    right = torch.tensor([names.place[normalised(held.captions[i][0])] for i in rows])
    figures = [_share(recall_at_1(looked, names.texts, right, among)) for among in (AMONG, len(names.texts))]
    print(f"{title:<28} {len(rows):>5} {figures[0]:>22} {figures[1]:>22}")


def _share(values: Tensor) -> str:
    found = intervals.mean(values)
    return f"{found.value:6.1%} ({max(0, found.low):.1%} - {min(1, found.high):.1%})"


if __name__ == "__main__":
    main()

"""Are made and real rows from one distribution? Every two-sample measure with its doubt, its p-value, and what real rows get."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise.core.errors import InputError
from unnoise.core.measure import Examples, Measure
from unnoise.core.random import Streams
from unnoise.evaluation.classifier_test import COLUMNS, classifier_test
from unnoise.evaluation.section import Section
from unnoise.evaluation.two_sample import MMD, Distance, Energy, SlicedWasserstein, compare

DIRECTIONS = 1000


@dataclass(frozen=True)
class _Test:
    """measure(held, made, seed): without its floor. floor(held, train, seed): the same figure alone."""

    name: str
    measure: Callable[[Tensor, Tensor, int], Measure]
    floor: Callable[[Tensor, Tensor, int], float]


def _classifier(x: Tensor, y: Tensor, seed: int) -> Measure:
    t = classifier_test(x, y, seed)
    a = t.accuracy
    return Measure("classifier", a.value, a.low, a.high, p_value=t.p_value, best=0.5, note="accuracy on rows not learnt from")


def _distance(name: str, distance: Distance, permutations: int, note: str) -> _Test:
    def measure(x: Tensor, y: Tensor, seed: int) -> Measure:
        c = compare(distance, x, y, permutations, seed)
        return Measure(name, c.value, c.low, c.high, p_value=c.p_value, note=note)

    return _Test(name, measure, lambda x, y, seed: distance(x, y))


TESTS = (
    _Test("classifier", _classifier, lambda x, y, seed: classifier_test(x, y, seed).accuracy.value),
    _distance("MMD", MMD(), 999, "squared, unbiased, Gaussian kernels of 5 widths about the median distance"),
    _distance("energy distance", Energy(), 999, "unbiased"),
    _distance("sliced Wasserstein", SlicedWasserstein(DIRECTIONS), 199, f"{DIRECTIONS:,} directions; above 0 for equal ones too"),
)


def two_sample_section(
    train: Examples, held: Examples, made: Examples, seed: int = 0, most: int = 2000, progress: bool = False
) -> Section:
    """Made rows against held-out real ones; the floor is of training rows, as many as there are made ones, against the same.

    most: at least 2; so many rows of each are drawn, for time grows as their square. What cannot be measured becomes a note.
    """
    if most < 2:
        raise InputError(f"most {most}: at least 2 rows of each are compared; 2000 are usual")
    count = min(len(made), len(train), most)
    rows = {"held": drawn(len(held), most, seed, "held"), "made": drawn(len(made), count, seed, "made")}
    rows["train"] = drawn(len(train), count, seed, "train")
    notes = [
        f"{len(rows['made']):,} made and {len(rows['held']):,} held-out rows, drawn from {len(made):,} and {len(held):,}; "
        f"the floor: {len(rows['train']):,} training rows against the same held-out ones.",
        "Intervals of 95 %: of the classifier by Clopper and Pearson, over both halves; of MMD and energy distance by the "
        "jackknife; of sliced Wasserstein by the delta method, its lower end less the bias of so many rows. p-values: of the "
        "classifier from the exact binomial law, of the distances by permutation tests.",
    ]
    try:
        x, y, real = (e.tensor(train, rows[k]).flatten(1) for k, e in (("held", held), ("made", made), ("train", train)))
    except InputError as e:
        return Section("Two-sample tests", notes=(f"Not measured: {e}.",))
    if x.shape[1] > COLUMNS:
        notes.append(f"The classifier sees {COLUMNS} of the {x.shape[1]:,} numbers of a row, drawn at random.")
    measures = []
    for test in (bar := tqdm(TESTS, unit="test", disable=not progress, leave=False)):
        bar.set_description(test.name)
        try:
            measures.append(replace(test.measure(x, y, seed), floor=test.floor(x, real, seed)))
        except InputError as e:
            notes.append(f"{test.name[0].upper()}{test.name[1:]} is not measured: {e}.")
    return Section("Two-sample tests", tuple(measures), notes=tuple(notes))


def drawn(n: int, most: int, seed: int, name: str) -> list[int]:
    """At most so many of n rows at random, in rising order."""
    if n <= most:
        return list(range(n))
    return sorted(Streams.of(seed, 1).scoped("rows").uniform(name, (n,), dtype=torch.float64)[0].argsort()[:most].tolist())

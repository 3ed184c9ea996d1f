"""Does the sample show what was asked for, and at what price? Control, quality and diversity by guidance scale.

    control    the share of made rows in which a classifier, which never saw the generator, sees the class that was asked for; its
               own accuracy on held-out real rows is the ceiling
    quality    energy distance to held-out rows, in an encoder's features (`two_sample`); the floor is that of other held-out rows
    diversity  coverage: the share of held-out rows whose ball, out to their k-th nearest held-out row, holds a made row
               (Naeem et al. 2020, 2002.09797, eq. 5); the ceiling is that of as many other held-out rows
Training rows are no measure here: the encoder may have learnt from them, and sees them with other eyes.
Guidance (Ho & Salimans 2022, 2207.12598) moves a generator along this curve; a good one is above and to the right of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval
from unnoise.core.measure import Examples, Measure
from unnoise.core.random import Streams
from unnoise.evaluation import plots
from unnoise.evaluation.encoders import Classifier, Encoder
from unnoise.evaluation.maker import Maker, attribute_of, prompts_like
from unnoise.evaluation.manifold import density_coverage
from unnoise.evaluation.section import Section
from unnoise.evaluation.two_sample import Energy, compare

GUIDANCE = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)
"""0: nothing is asked; 1: plainly conditional; above: exaggerated."""
_K = 5
_HELD = 2000  # held-out rows to compare with
_SHOWN = 8


@dataclass(frozen=True)
class Point:
    """One guidance scale. quality and diversity: None where there are too few rows for them."""

    guidance: float
    control: Interval
    quality: Interval | None
    diversity: Interval | None


@dataclass(frozen=True)
class Reference:
    """Features of held-out rows to compare with; what other held-out rows get is the floor of quality, the ceiling of diversity.

    count: so many rows cover: coverage grows with them.
    """

    encoder: Encoder
    train: Examples
    rows: Tensor
    count: int
    floor: float
    ceiling: float
    seed: int

    @staticmethod
    def of(encoder: Encoder, train: Examples, held: Examples, n: int, seed: int) -> "Reference":
        """For n made rows. Raises InputError for too few rows of either."""
        halves = encoder.features(held.take(_some(len(held), _HELD, seed)), train)
        here, there = halves[: len(halves) // 2], halves[len(halves) // 2 :]
        count = min(n, len(there))
        ceiling = density_coverage(here, there[:count], _K, seed)[1].value
        return Reference(encoder, train, here, count, Energy()(there, here), ceiling, seed)

    def compare(self, made: Examples) -> tuple[Interval, Interval]:
        """Quality and diversity."""
        x = self.encoder.features(made, self.train)
        c = compare(Energy(), x, self.rows, 1, self.seed)
        return Interval(c.value, c.low, c.high), density_coverage(self.rows, x[: self.count], _K, self.seed)[1]


def right_share(classifier: Classifier, rows: Examples, asked: Sequence[str | None], train: Examples) -> Interval:
    """Of rows asked to be of a class that the classifier knows: the share in which it sees that class."""
    place = {v: i for i, v in enumerate(classifier.attribute.values)}
    codes = torch.tensor([place.get(a, -1) if a is not None else -1 for a in asked])
    known = (codes >= 0).nonzero()[:, 0]
    if len(known) < 1:
        raise InputError(f"none of the prompts is a value of {classifier.attribute.name!r}")
    seen = classifier.probabilities(rows.take(known.tolist()), train).argmax(1)
    return intervals.share(int((seen == codes[known]).sum()), len(known))


def control_section(
    maker: Maker,
    classifier: Classifier,
    train: Examples,
    held: Examples,
    guidance: Sequence[float] = GUIDANCE,
    n: int = 1000,
    seed: int = 0,
    encoder: Encoder | None = None,
    progress: bool = False,
) -> Section:
    """n rows are made at each scale, from the same seeds, with the classes' shares of the training rows.

    classifier: of the attribute that prompts name; trained on real rows. encoder: None takes the classifier's last layer, which
    looks at what tells classes apart.
    """
    title, name = "Control", classifier.attribute.name
    prompts = prompts_like(train, n, seed, name)
    try:
        if len(classifier.attribute.values) < 2 or len({p for p in prompts if p is not None}) < 2:
            raise InputError(f"the training rows are not of two or more values of {name!r}: there is nothing to ask for")
        if not guidance:
            raise InputError("no guidance scale was given")
        told = attribute_of(held, name)
        known = (told.codes >= 0).nonzero()[:, 0].tolist() if told else []
        if told is None or not known:
            raise InputError(f"{name!r} is not known of the held-out rows: the classifier cannot be checked")
        real = right_share(classifier, held.take(known), [told.values[int(told.codes[i])] for i in known], train)
    except InputError as e:
        return Section(title, notes=(f"Control was not measured: {e}.",))
    notes = [f"The classifier, {classifier.name}, tells {real.value:.1%} of {len(known)} held-out rows right: that is the ceiling."]
    if real.value < 2 / len(classifier.attribute.values):
        notes.append("It is hardly better than guessing: its verdict on made rows means little.")
    reference: Reference | None = None
    try:
        reference = Reference.of(encoder or classifier.encoder(), train, held, n, seed)
    except InputError as e:
        notes.append(f"Quality and diversity were not measured: {e}.")
    points: list[Point] = []
    sheets = []
    for w in tqdm(guidance, desc="guidance", unit="scale", disable=not progress, leave=False):
        try:
            made = maker.make(prompts, seed, w)
            share = right_share(classifier, made, prompts, train)
            points.append(Point(w, share, *(reference.compare(made) if reference else (None, None))))
            sheets.append(made.draw(range(min(_SHOWN, len(made)))))
        except InputError as e:
            notes.append(f"Guidance {w:g}: {e}.")
    measures = [
        Measure("asked class, real rows", real.value, real.low, real.high, best="high", note="the classifier's own accuracy")
    ]
    for p in points:
        at, a, q, d = f"guidance {p.guidance:g}", p.control, p.quality, p.diversity
        measures.append(Measure(f"asked class, {at}", a.value, a.low, a.high, real.value, best="high", note=f"of {n} rows"))
        if reference is not None and q is not None and d is not None:
            where, by = reference.encoder.name, f"of {len(reference.rows)} held-out rows, by {reference.count} rows"
            measures += [
                Measure(f"distance, {at}", q.value, q.low, q.high, reference.floor, note=f"energy distance in {where}"),
                Measure(f"coverage, {at}", d.value, d.low, d.high, reference.ceiling, best="high", note=by),
            ]
    if not points:
        return Section(title, tuple(measures), (), tuple(notes))
    heads = [p or "" for p in prompts[:_SHOWN]]
    drawn = [
        plots.attempt(
            "Control, quality and diversity by guidance",
            "Dashed: what real rows get. Bands: 95 %.",
            lambda: _curves(points, real.value, reference),
        ),
        plots.attempt(
            "What guidance does",
            "Each row one guidance scale, each column one seed and one class.",
            lambda: plots.sheet(sheets, heads, [f"guidance {p.guidance:g}" for p in points]),
        ),
    ]
    if reference is not None:
        about = "Up: what was asked for is shown; right: the variety of real rows is there. Named by guidance."
        drawn.insert(1, plots.attempt("Control against diversity", about, lambda: _trade(points)))
    drawings, sorry = (tuple(x for some in part for x in some) for part in zip(*drawn))
    return Section(title, tuple(measures), drawings, (*notes, *sorry))


def _some(total: int, most: int, seed: int) -> list[int]:
    """At most so many of the rows, at random."""
    return Streams.of(seed, total).uniform("some", dtype=torch.float64).argsort()[:most].tolist()


def _curves(points: Sequence[Point], real: float, reference: Reference | None) -> bytes:
    def panel(label: str, of: Sequence[Interval], level: float) -> plots.Panel:
        return plots.Panel(label, [i.value for i in of], [i.low for i in of], [i.high for i in of], level, "real rows")

    panels = [panel("asked class seen", [p.control for p in points], real)]
    if reference is not None:
        panels += [
            panel("distance", [p.quality for p in points if p.quality], reference.floor),
            panel("coverage", [p.diversity for p in points if p.diversity], reference.ceiling),
        ]
    return plots.curves([p.guidance for p in points], panels, "guidance")


def _trade(points: Sequence[Point]) -> bytes:
    both = [(p.diversity.value, p.control.value, f"{p.guidance:g}") for p in points if p.diversity]
    x, y, names = zip(*both)
    return plots.path(x, y, names, "coverage", "asked class seen")

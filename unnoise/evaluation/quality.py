"""How good and how diverse made rows are, by the features of frozen networks: every measure as the mean over several networks.

One network more is another seed, so the doubt is of the seeds and of the rows: with E networks, s their figures' standard deviation
and e the mean standard error of the rows (which all networks share), the interval is t sqrt(s^2 / E + e^2), with Student's t for
Welch and Satterthwaite's degrees of freedom. Figures of networks of different kinds are on different scales: one section a kind.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval, Z, student
from unnoise.core.measure import Examples, Measure
from unnoise.evaluation.distances import drawn
from unnoise.evaluation.encoders import Encoder
from unnoise.evaluation.frechet import frechet, frechet_infinite
from unnoise.evaluation.kernel import kid
from unnoise.evaluation.manifold import density_coverage, precision_recall
from unnoise.evaluation.section import Section
from unnoise.evaluation.vendi import vendi


@dataclass(frozen=True)
class Figure:
    """One figure of a metric. `best`: "low", "high", or None: what real rows get. bottom, top: where its values can lie."""

    name: str
    best: str | None
    note: str
    bottom: float = -math.inf
    top: float = math.inf


@dataclass(frozen=True)
class Metric:
    """measure(real, made): the figures, found together. `pairwise`: its time grows as the square of the rows."""

    figures: tuple[Figure, ...]
    measure: Callable[[Tensor, Tensor], tuple[Interval, ...]]
    pairwise: bool


METRICS = (
    Metric(
        (Figure("Frechet distance", "low", "too large by a bias that falls with the rows: see the floor", bottom=0.0),),
        lambda real, made: (frechet(real, made),),
        pairwise=False,
    ),
    Metric(
        (Figure("Frechet distance, infinite rows", "low", "extrapolated: about 0 is perfect"),),
        lambda real, made: (frechet_infinite(real, made),),
        pairwise=False,
    ),
    Metric((Figure("KID", "low", "unbiased: about 0 is perfect"),), lambda real, made: (kid(real, made),), pairwise=True),
    Metric(
        (
            Figure("precision", "high", "made rows among real ones, k = 3", 0.0, 1.0),
            Figure("recall", "high", "real rows among made ones, k = 3", 0.0, 1.0),
        ),
        precision_recall,
        pairwise=True,
    ),
    Metric(
        (
            Figure("density", None, "1 for equal distributions; k = 5", 0.0),
            Figure("coverage", "high", "real rows that have a made one near; k = 5", 0.0, 1.0),
        ),
        density_coverage,
        pairwise=True,
    ),
    Metric((Figure("Vendi score", None, "different rows, in effect", 1.0),), lambda _, made: (vendi(made),), pairwise=False),
)


def feature_section(
    train: Examples,
    held: Examples,
    made: Examples,
    encoders: Sequence[Encoder],
    progress: bool = False,
    title: str = "Features",
    most: int = 4000,
    seed: int = 0,
) -> Section:
    """Made rows against held-out real ones; the floor is of training rows, as many as there are made ones, against the same.

    encoders: of one kind, differing in their seeds. most: so many rows of each go into pairwise measures; all go into the others.
    What cannot be measured becomes a note.
    """
    if not encoders:
        return Section(title, notes=("Not measured: no feature network was given.",))
    if most < 2:
        raise InputError(f"most {most}: at least 2 rows of each are compared; 4000 are usual")
    count = min(len(made), len(train))
    made, base = (e.take(drawn(len(e), count, seed, name)) for e, name in ((made, "made"), (train, "train")))
    notes = [
        f"{len(made):,} made rows against {len(held):,} held-out ones; the floor: {len(base):,} training rows against the same "
        "held-out ones.",
        f"Mean over {len(encoders)} feature network{'s' * (len(encoders) > 1)}: {'; '.join(named(e) for e in encoders)}.",
        "Intervals of 95 %: of the rows (Frechet distance and Vendi score by the delta method, KID by the jackknife, the others by "
        "disjoint parts)" + (" and of the networks' seeds." if len(encoders) > 1 else "; one network, so not of its seed."),
    ]
    if max(len(made), len(held)) > most:
        notes.append(f"KID, precision, recall, density and coverage are of {most:,} rows of each, drawn at random.")
    found: dict[str, list[tuple[Interval, float]]] = {}  # name: of each network the figure and its floor
    lacking: dict[str, None] = {}
    with tqdm(total=len(encoders) * len(METRICS), unit="metric", disable=not progress, leave=False) as bar:
        for encoder in encoders:
            bar.set_description(encoder.name)
            try:
                real, fake, floor = (encoder.features(e, train, progress) for e in (held, made, base))
            except InputError as e:
                lacking[f"{encoder.name}: {e}."] = None
                bar.update(len(METRICS))
                continue
            for metric in METRICS:
                bar.update()
                try:
                    figures = of_metric(metric, real, fake, most, seed)
                    floors = of_metric(metric, real, floor, most, seed)
                except InputError as e:
                    names = " and ".join(f.name for f in metric.figures)
                    lacking[f"{names[0].upper()}{names[1:]} {'are' if len(metric.figures) > 1 else 'is'} not measured: {e}."] = None
                    continue
                for figure, value, low in zip(metric.figures, figures, floors):
                    found.setdefault(figure.name, []).append((value, low.value))
    measures = [_over_networks(f, found[f.name]) for metric in METRICS for f in metric.figures if f.name in found]
    return Section(title, tuple(measures), notes=(*notes, *lacking))


def named(encoder: Encoder) -> str:
    """Its name, and its hash where the name does not tell it."""
    return encoder.name if encoder.hash in encoder.name else f"{encoder.name} ({encoder.hash})"


def of_metric(metric: Metric, real: Tensor, made: Tensor, most: int, seed: int = 0) -> tuple[Interval, ...]:
    """Its figures, in the order of their names. real: (n, F), made: (m, F) features."""
    if metric.pairwise:
        real, made = (x[torch.as_tensor(drawn(len(x), most, seed, name))] for x, name in ((real, "held"), (made, "made")))
    return metric.measure(real, made)


def _over_networks(figure: Figure, found: Sequence[tuple[Interval, float]]) -> Measure:
    mean, floor = over_seeds([i for i, _ in found]), sum(f for _, f in found) / len(found)
    low, high = max(mean.low, figure.bottom), min(mean.high, figure.top)
    return Measure(figure.name, mean.value, low, high, floor, best=floor if figure.best is None else figure.best, note=figure.note)


def over_seeds(each: Sequence[Interval]) -> Interval:
    """The mean of figures that differ by the seed of their network, all from the same rows."""
    n = len(each)
    value = sum(i.value for i in each) / n
    rows = (sum(i.high - i.low for i in each) / (2 * Z * n)) ** 2
    seeds = sum((i.value - value) ** 2 for i in each) / (n * (n - 1)) if n > 1 else 0.0
    t = student((rows + seeds) ** 2 / (seeds**2 / (n - 1))) if seeds > 0 else Z
    reach = t * math.sqrt(rows + seeds)
    return Interval(value, value - reach, value + reach)

"""What are the made rows good for? A classifier learns from them, or from real rows and them, and is tested on real rows.

    made -> real          train on synthetic, test on real (Esteban et al. 2017, 1706.02633; classification accuracy score:
                          Ravuri & Vinyals 2019, 1905.10887)
    real + made -> real   data augmentation, against as many real rows alone
    rare class            one class thinned to a few real rows, alone and filled up with made rows of that class
The score is balanced accuracy, the mean over the classes of the share of held-out rows told right. With R repeats, each with rows
and weights drawn anew, a row i is right z_i of the time; the score's variance is that of repeats, over R, plus that of rows,
    sum_k var(z_i: i of class k) / n_k / K^2,
and differences of two arms are scored row by row in the same way, so that what both find hard cancels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval
from unnoise.core.measure import Attribute, Examples, Measure
from unnoise.core.random import Streams, derive
from unnoise.evaluation import plots
from unnoise.evaluation.encoders import train_classifier
from unnoise.evaluation.maker import attribute_of
from unnoise.evaluation.section import Drawing, Section
from unnoise.modalities.table.learners import Boosted, Linear, probabilities
from unnoise.modalities.table.learners import Learner as TableLearner
from unnoise.modalities.table.measure import TableRows
from unnoise.modalities.table.vectors import vectors

_FEWEST = 20  # rows to learn from
_FEWEST_OF_CLASS = 10  # held-out rows of a class that is thinned


# -- rows of several sets, and who learns from them -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Joined(Examples):
    """Rows of several sets as one; `places` are (set, row). `scale`: the real training rows, which decide everybody's scale."""

    parts: tuple[Examples, ...] = field(repr=False)
    places: tuple[tuple[int, int], ...] = field(repr=False)
    scale: Examples = field(repr=False)
    kind: str

    @staticmethod
    def of(scale: Examples, *some: tuple[Examples, Sequence[int]]) -> "Joined":
        """The given rows of each set, one set after the other."""
        places = tuple((i, int(r)) for i, (_, rows) in enumerate(some) for r in rows)
        return Joined(tuple(x for x, _ in some), places, scale, scale.kind)

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Sequence[int]) -> "Joined":
        return replace(self, places=tuple(self.places[i] for i in rows))

    def tensor(self, reference: Examples, rows: Sequence[int] | None = None) -> Tensor:
        return self.gathered(lambda part, some: part.tensor(self.scale, some), rows)

    def gathered(self, read: Callable[[Examples, Sequence[int]], Tensor], rows: Sequence[int] | None = None) -> Tensor:
        """read(set, rows of it) for every set, put into the order of the rows asked for."""
        places = self.places if rows is None else [self.places[i] for i in rows]
        out: Tensor | None = None
        for i, part in enumerate(self.parts):
            here = [j for j, (p, _) in enumerate(places) if p == i]
            if here:
                x = read(part, [places[j][1] for j in here])
                out = x.new_empty((len(places), *x.shape[1:])) if out is None else out
                out[here] = x
        return torch.empty(0) if out is None else out

    def attributes(self) -> tuple[Attribute, ...]:
        """Those that all sets have, with the first's values."""
        first, *rest = [{a.name: a for a in part.attributes()} for part in self.parts]
        out = []
        for name, a in first.items():
            if all(name in others for others in rest):
                codes = [codes_of(part, a) for part in self.parts]
                out.append(replace(a, codes=torch.tensor([int(codes[p][r]) for p, r in self.places], dtype=torch.int64)))
        return tuple(out)

    def draw(self, rows: Sequence[int]) -> list[Image.Image]:
        return [self.parts[p].draw([r])[0] for p, r in (self.places[i] for i in rows)]

    def look(self, made: Examples) -> tuple[Image.Image, str]:
        raise InputError("rows of several sets are not looked at together")

    def measures(self, held: Examples, made: Examples, seed: int = 0) -> list[Measure]:
        raise InputError("rows of several sets have no measures of their own")


def codes_of(x: Examples, attribute: Attribute) -> Tensor:
    """Of x's rows, into the values of `attribute`; -1 where unknown: (n,) int64."""
    own = attribute_of(x, attribute.name)
    if own is None:
        return torch.full((len(x),), -1, dtype=torch.int64)
    place = {v: i for i, v in enumerate(attribute.values)}
    return torch.tensor([*(place.get(v, -1) for v in own.values), -1])[own.codes]


class Learner(ABC):
    """A frozen dataclass."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How a report calls it."""

    @abstractmethod
    def learn(self, rows: Joined, attribute: Attribute, seed: int) -> Callable[[Joined], Tensor]:
        """From rows, whose values are attribute.codes (n,) -> a function from other rows to the codes that it tells (m,)."""


@dataclass(frozen=True)
class Network(Learner):
    """The report's own kind of classifier, of pictures and of whatever has an encoder. steps None: as many as the rows ask for."""

    steps: int | None = None

    @property
    def name(self) -> str:
        return "network"

    def learn(self, rows: Joined, attribute: Attribute, seed: int) -> Callable[[Joined], Tensor]:
        classifier = train_classifier(rows, attribute, seed, self.steps)
        place = torch.tensor([attribute.values.index(v) for v in classifier.attribute.values])
        return lambda others: place[classifier.probabilities(others, rows).argmax(1)]


@dataclass(frozen=True)
class Flat(Learner):
    """A classifier of scikit-learn, for rows that are vectors; of a table the column to be told is left out."""

    learner: TableLearner

    @property
    def name(self) -> str:
        return self.learner.name

    def learn(self, rows: Joined, attribute: Attribute, seed: int) -> Callable[[Joined], Tensor]:
        x, y = _inputs(rows, attribute.name).double().numpy(), attribute.codes.numpy()

        def tell(others: Joined) -> Tensor:
            asked = _inputs(others, attribute.name).double().numpy()
            return torch.from_numpy(probabilities(self.learner, x, y, asked, len(attribute.values), seed % 2**31).argmax(1))

        return tell


def _inputs(rows: Joined, name: str) -> Tensor:
    """What is known of a row but for attribute `name`: (n, F)."""
    scale = rows.scale
    if not isinstance(scale, TableRows):
        return rows.tensor(scale).flatten(1)

    def read(part: Examples, some: Sequence[int]) -> Tensor:
        if not isinstance(part, TableRows):
            raise InputError(f"rows of a table cannot be learnt from together with {part.kind}")
        return torch.from_numpy(vectors(part.take(some).table, scale.table, name))

    return rows.gathered(read)


def learners_for(train: Examples) -> tuple[Learner, ...]:
    """Of pictures and the like a network, of vectors logistic regression and gradient boosting."""
    if train.tensor(train, [0]).ndim == 2:
        return Flat(Linear()), Flat(Boosted())
    return (Network(),)


# -- scores ---------------------------------------------------------------------------------------------------------------------


def balanced(right: Tensor, codes: Tensor) -> Interval:
    """right: (R, n), what repeat r got for row i: 0 or 1, or the difference of two such. codes: (n,) the rows' classes."""
    mask = torch.nn.functional.one_hot(codes.unique(return_inverse=True)[1]).double()  # (n, K)
    counts = mask.sum(0)
    each = (right.double() @ mask / counts).mean(1)  # (R,)
    z = right.double().mean(0)
    middle = z @ mask / counts
    within = ((z[:, None] - middle) ** 2 * mask).sum(0) / (counts - 1).clamp(min=1) / counts
    variance = float(within.sum()) / mask.shape[1] ** 2
    repeats = len(each)
    doubt = intervals.student(repeats - 1) ** 2 * float(each.var()) / repeats if repeats > 1 else 0.0
    reach = math.sqrt(intervals.Z**2 * variance + doubt)
    value = float(each.mean())
    return Interval(value, value - reach, value + reach)


# -- the section ----------------------------------------------------------------------------------------------------------------


def usefulness_section(
    train: Examples,
    held: Examples,
    made: Examples,
    name: str = "class",
    seed: int = 0,
    repeats: int = 3,
    learners: Sequence[Learner] | None = None,
    most: int = 5000,
    rare: int = 20,
    thin: str | None = None,
    progress: bool = False,
) -> Section:
    """The attribute `name` is to be told.

    repeats: of every training. learners: by default `learners_for` the rows. most: rows of a kind that one learns from at most.
    rare: to how many real rows a class is thinned: `thin`, or that with the fewest rows of those with more, which all sets have.
    """
    title, notes = f"Usefulness: {name}", []
    try:
        task = _task(train, held, made, name, most)
        chosen = learners_for(train) if learners is None else tuple(learners)
        if repeats < 1:
            raise InputError(f"repeats {repeats}: at least 1")
    except InputError as e:
        return Section(title, notes=(f"Usefulness was not measured: {e}.",))
    thinned = _rarest(task, rare, thin)
    if thinned is None and thin is not None:
        notes.append(f"{thin!r} was not thinned: it needs more than {rare} real rows, rows made, {_FEWEST_OF_CLASS} held out.")
    elif thinned is None:
        notes.append(f"No class has more than {rare} real rows, rows made and {_FEWEST_OF_CLASS} held-out rows: none was thinned.")
    measures: list[Measure] = []
    drawings: tuple[Drawing, ...] = ()
    with tqdm(total=len(chosen) * repeats, desc="usefulness", unit="repeat", disable=not progress, leave=False) as bar:
        for learner in chosen:
            try:
                right = _run(task, learner, thinned, rare, repeats, seed, bar)
            except InputError as e:
                notes.append(f"Usefulness to the {learner.name} learner: {e}.")
                continue
            measures += _measures(task, learner.name, right, thinned, rare)
            if len(task.attribute.values) <= 30:
                about = "Bars: learnt from made rows; marks: from as many real rows."
                more, sorry = plots.attempt(f"Right by class, {learner.name}", about, partial(_bars, task, right))
                drawings, notes = drawings + more, [*notes, *sorry]
    if thinned is not None:
        notes.append(
            f"The rare class is {task.attribute.values[thinned]!r}. The generator learnt from all of its real rows: the gain is "
            "that of handing on what it saw, and more than a class that is rare from the start would have."
        )
    return Section(title, tuple(measures), drawings, tuple(notes))


@dataclass(frozen=True)
class _Task:
    """Sets with their codes; `count`: rows of each kind to learn from."""

    train: Examples
    held: Examples
    made: Examples
    attribute: Attribute
    real_codes: Tensor
    made_codes: Tensor
    held_codes: Tensor
    tested: Tensor  # the held-out rows whose class is known, and can be learnt
    count: int


def _task(train: Examples, held: Examples, made: Examples, name: str, most: int) -> _Task:
    attribute = attribute_of(train, name)
    if attribute is None:
        raise InputError(f"the training rows have no attribute {name!r}")
    if attribute_of(made, name) is None:
        raise InputError(f"the made rows have no {name!r}: the generator was not told, and nothing can be learnt from them")
    codes = [codes_of(x, attribute) for x in (train, made, held)]
    known = [int((c >= 0).sum()) for c in codes]
    for what, c, n in zip(("training", "made", "held-out"), codes, known):
        if n < _FEWEST or len(c[c >= 0].unique()) < 2:
            classes = len(c[c >= 0].unique())
            raise InputError(
                f"{name!r} is known of {n} {what} rows, which are of {classes} class{'es' if classes != 1 else ''}; "
                f"at least {_FEWEST} rows of 2 classes are needed"
            )
    learnable = torch.isin(codes[2], codes[0].unique()) & (codes[2] >= 0)
    return _Task(
        train, held, made, attribute, codes[0], codes[1], codes[2], learnable.nonzero()[:, 0], min(known[0], known[1], most)
    )


def _rarest(task: _Task, rare: int, thin: str | None) -> int | None:
    """The class to be thinned."""
    k = len(task.attribute.values)
    real, made, held = (torch.bincount(c[c >= 0], minlength=k) for c in (task.real_codes, task.made_codes, task.held_codes))
    named = torch.tensor([thin in (None, v) for v in task.attribute.values])
    able = (named & (real > rare) & (made > 0) & (held >= _FEWEST_OF_CLASS)).nonzero()[:, 0]
    return int(able[real[able].argmin()]) if len(able) else None


def _run(task: _Task, learner: Learner, thinned: int | None, rare: int, repeats: int, seed: int, bar: tqdm) -> dict[str, Tensor]:
    """Arm -> (repeats, tested rows), 1 where the row is told right."""
    test = Joined.of(task.train, (task.held, task.tested.tolist()))
    truth = task.held_codes[task.tested]
    right: dict[str, list[Tensor]] = {}
    for r in range(repeats):
        own = derive(seed, f"usefulness/{r}")
        real, made = _some(task.real_codes, task.count, own, "real"), _some(task.made_codes, task.count, own, "made")
        arms = {"real": (real, made[:0]), "made": (real[:0], made), "both": (real, made)}
        if thinned is not None:
            of_class = task.real_codes[real] == thinned
            few = real[of_class][:rare]
            kept = torch.cat([real[~of_class], few])
            add = _some(
                torch.where(task.made_codes == thinned, task.made_codes, -1), max(1, int(of_class.sum()) - len(few)), own, "add"
            )
            arms |= {"rare": (kept, made[:0]), "filled": (kept, add)}
        for arm, (a, b) in arms.items():
            rows = Joined.of(task.train, (task.train, a.tolist()), (task.made, b.tolist()))
            codes = torch.cat([task.real_codes[a], task.made_codes[b]])
            tell = learner.learn(rows, replace(task.attribute, codes=codes), own)
            right.setdefault(arm, []).append((tell(test) == truth).double())
        bar.update()
    return {arm: torch.stack(rows) for arm, rows in right.items()}


def _some(codes: Tensor, count: int, seed: int, name: str) -> Tensor:
    """At most so many rows of known class, in random order."""
    u = Streams.of(seed, 1).uniform(name, codes.shape, dtype=torch.float64)[0]
    order = u.argsort()
    return order[codes[order] >= 0][:count]


def _measures(task: _Task, learner: str, right: dict[str, Tensor], thinned: int | None, rare: int) -> list[Measure]:
    codes = task.held_codes[task.tested]
    n, chance = task.count, 1 / len(codes.unique())
    real, made, both = (balanced(right[arm], codes) for arm in ("real", "made", "both"))
    lost, gained = balanced(right["made"] - right["real"], codes), balanced(right["both"] - right["real"], codes)
    told = f"balanced accuracy on {len(codes)} held-out rows; real: learnt from {n} real rows; guessing: {chance:.2f}"
    out = [
        _measure(f"{learner}: learnt from real", real, None, "high", f"{n} training rows, {len(right['real'])} repeats"),
        _measure(f"{learner}: learnt from made", made, real.value, "high", told),
        _measure(f"{learner}: learnt from real + made", both, real.value, "high", f"{n} + {n} rows"),
        _measure(f"{learner}: made less real", lost, 0.0, "high", "difference of the first two, row by row"),
        _measure(f"{learner}: real + made less real", gained, 0.0, "high", "what data augmentation brings"),
    ]
    if thinned is not None:
        here = codes == thinned
        value = task.attribute.values[thinned]
        alone, filled = (balanced(right[arm][:, here], codes[here]) for arm in ("rare", "filled"))
        more = balanced((right["filled"] - right["rare"])[:, here], codes[here])
        whole = balanced(right["filled"] - right["rare"], codes)
        out += [
            _measure(f"{learner}: rare class alone", alone, None, "high", f"{value} told right, of it {rare} real rows"),
            _measure(f"{learner}: rare class filled up", filled, alone.value, "high", f"{value} told right, with made rows of it"),
            _measure(f"{learner}: rare class, gain", more, 0.0, "high", "the second less the first, row by row"),
            _measure(
                f"{learner}: rare class, gain of all", whole, 0.0, "high", "the same for the balanced accuracy of all classes"
            ),
        ]
    return out


def _measure(name: str, i: Interval, floor: float | None, best: str, note: str) -> Measure:
    return Measure(name, i.value, i.low, i.high, floor, best=best, note=note)


def _bars(task: _Task, right: dict[str, Tensor]) -> bytes:
    codes = task.held_codes[task.tested]
    present = codes.unique().tolist()
    made, real = ([balanced(right[a][:, codes == k], codes[codes == k]) for k in present] for a in ("made", "real"))
    names = [task.attribute.values[k] for k in present]
    low, high = [max(0.0, m.low) for m in made], [min(1.0, m.high) for m in made]
    return plots.bars(names, [m.value for m in made], low, high, "told right", [r.value for r in real], "learnt from real")

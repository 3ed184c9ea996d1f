"""Tables to be measured, and what is measured of tables alone: likeness, detection, efficacy, privacy; each in a file of its own.

A figure compares made rows with held-out ones, and its floor training rows with held-out ones, as many training rows as made ones:
the floor is what a perfect model would get, and a model that copies its training rows gets it too, which is what privacy is for.
A figure that cannot be found is NaN, and its note says why.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.measure import FEWEST, Attribute, Examples, Measure
from unnoise.modalities.table.columns import Categorical, Numeric, Table, modelled
from unnoise.modalities.table.data import TableData
from unnoise.modalities.table.detection import detection
from unnoise.modalities.table.efficacy import default_target, efficacy
from unnoise.modalities.table.halves import half_error
from unnoise.modalities.table.learners import Boosted, Learner, Linear
from unnoise.modalities.table.likeness import column_shapes, mean_score, pair_trends
from unnoise.modalities.table.privacy import privacy
from unnoise.modalities.table.show import marginals
from unnoise.modalities.table.vectors import vectors

_HALVED = 20  # rows at least of which halves are compared
_LEARNT = 5000  # rows at most of each table for what learns
_ROWS = 20_000  # rows at most of each table for likeness
_PAIRED = 64  # columns at most whose pairs are compared: 2016 pairs


@dataclass(frozen=True)
class TableRows(Examples):
    """target: the column that efficacy foretells; None: the last one of categories, or else of numbers."""

    table: Table = field(repr=False)
    target: str | None = None

    kind = "table"

    @staticmethod
    def read(data: TableData, target: str | None = None) -> "TableRows":
        """A table that was read."""
        return TableRows.of(data.table, target)

    @staticmethod
    def of(table: Table, target: str | None = None) -> "TableRows":
        return TableRows(table, target)

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: Sequence[int]) -> "TableRows":
        return replace(self, table=self.table[torch.as_tensor(rows, dtype=torch.int64)])

    def tensor(self, reference: Examples, rows: Sequence[int] | None = None) -> Tensor:
        """(n, F): normal scores of numbers, whether they are missing, categories one-hot; see `vectors`."""
        these = self if rows is None else self.take(rows)
        return torch.from_numpy(vectors(these.table, _tables(reference)[0])).float()

    def attributes(self) -> tuple[Attribute, ...]:
        """Every column of categories; a missing value is not known."""
        found = []
        for c in modelled(self.table):
            if isinstance(c, Categorical):
                codes = self.table.of(c)
                found.append(Attribute(c.name, c.categories, torch.where(codes < len(c.categories), codes, -1)))
        return tuple(found)

    def draw(self, rows: Sequence[int]) -> list[Image.Image]:
        """A line a column: its name, its value, and for numbers where the value lies among the column's, from least to greatest."""
        return [_drawn(self.table[r : r + 1]) for r in rows]

    def look(self, made: Examples) -> tuple[Image.Image, str]:
        """Every column's distribution, and the correlations of numbers, of these rows (grey) and of made ones (red)."""
        if not isinstance(made, TableRows):
            raise InputError("a table is looked at beside a table")
        return Image.open(io.BytesIO(marginals(self.table, made.table))), "real in grey, made in red"

    def measures(self, held: Examples, made: Examples, seed: int = 0) -> list[Measure]:
        """Shapes and trends by column are had from `column_shapes` and `pair_trends`; here are their means."""
        others, fakes = _tables(held, made)
        train = self.table
        modelled(train, others, fakes)
        if min(len(train), len(others), len(fakes)) < 2:
            raise InputError(
                f"{len(train)} training, {len(others)} held-out and {len(fakes)} made rows: at least 2 of each are needed"
            )
        return [
            *_likeness(train, others, fakes, seed),
            *_detection(train, others, fakes, seed),
            *_efficacy(train, others, fakes, self.target or default_target(train), seed),
            *_privacy(train, others, fakes, seed),
        ]


def _tables(*examples: Examples) -> list[Table]:
    found = []
    for e in examples:
        if not isinstance(e, TableRows):
            raise InputError(f"a table is compared with tables, not with {e.kind}")
        found.append(e.table)
    return found


def _some(table: Table, most: int, seed: int) -> Table:
    """At most so many of the rows, at random."""
    if len(table) <= most:
        return table
    return table[torch.from_numpy(np.sort(np.random.default_rng(seed).permutation(len(table))[:most]))]


def _evenly(train: Table, held: Table, made: Table, most: int, seed: int) -> tuple[Table, Table, Table]:
    """At most so many rows of each, and of training rows as many as of made ones."""
    n = min(len(train), len(made), most)
    return _some(train, n, seed), _some(held, most, seed), _some(made, n, seed)


def _not_measured(name: str, why: str) -> Measure:
    return Measure(name, math.nan, note=f"not measured: {why}")


def _enough(train: Table, held: Table) -> None:
    if len(train) + len(held) < FEWEST:
        raise InputError(f"{len(train) + len(held)} real rows are too few to learn from and to test on; {FEWEST} are the least")


def _likeness(train: Table, held: Table, made: Table, seed: int) -> list[Measure]:
    train, held, made = _evenly(train, held, made, _ROWS, seed)
    names = [c.name for c in modelled(train)]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(names))[:_PAIRED])
    kept = [names[i] for i in chosen]
    note = "1 - Kolmogorov-Smirnov or total variation, mean of columns"
    shapes = _mean("column shapes", column_shapes, train, held, made, seed, note)
    a, b, c = (_columns(t, kept) for t in (train, held, made))
    if not pair_trends(b, b):
        return [shapes, _not_measured("pair trends", "there is no pair of columns that vary")]
    note = "likeness of correlations and joint frequencies, mean of pairs"
    if len(kept) < len(names):
        note += f" of {_PAIRED} columns chosen at random"
    return [shapes, _mean("pair trends", pair_trends, a, b, c, seed, note)]


Scores = Callable[[Table, Table], dict]


def _mean(name: str, scores: Scores, train: Table, held: Table, made: Table, seed: int, note: str) -> Measure:
    value, floor = mean_score(scores(held, made)), mean_score(scores(held, train))
    if min(len(held), len(made)) < _HALVED:
        return Measure(name, value, floor=floor, best="high", note=f"{note}; too few rows for an interval")

    def of_halves(keep: list[np.ndarray]) -> float:
        found = scores(held[torch.from_numpy(keep[0])], made[torch.from_numpy(keep[1])])
        return mean_score(found) if found else value  # a half in which nothing varies

    error = 1.96 * half_error(of_halves, [len(held), len(made)], seed)
    return Measure(name, value, max(value - error, 0.0), min(value + error, 1.0), floor, best="high", note=note)


def _columns(table: Table, names: list[str]) -> Table:
    """Some of the modelled columns alone."""
    columns = tuple(c for c in table.columns if c.name in names)
    numeric = [table.of(c) for c in columns if isinstance(c, Numeric)]
    categorical = [table.of(c) for c in columns if isinstance(c, Categorical)]
    return Table(
        columns,
        torch.stack(numeric, 1) if numeric else table.numeric[:, :0],
        torch.stack(categorical, 1) if categorical else table.categorical[:, :0],
    )


def _detection(train: Table, held: Table, made: Table, seed: int) -> list[Measure]:
    out = []
    some, others, fakes = _evenly(train, held, made, _LEARNT, seed)
    learners: tuple[tuple[str, Learner], ...] = (("logistic regression", Linear()), ("gradient boosting", Boosted()))
    for what, learner in learners:
        name = f"detection by {what}"
        try:
            _enough(train, held)
            a = detection(others, fakes, learner, seed=seed, reference=train)
            floor = detection(others, some, learner, seed=seed, reference=train)
        except InputError as e:
            out.append(_not_measured(name, str(e)))
        else:
            out.append(
                Measure(name, a.value, a.low, a.high, floor.value, best=0.5, note="area under the ROC curve, made against held out")
            )
    return out


def _efficacy(train: Table, held: Table, made: Table, target: str, seed: int) -> list[Measure]:
    out = []
    some, others, fakes = _evenly(train, held, made, _LEARNT, seed)
    learners: tuple[Learner, ...] = (Boosted(), Linear())
    for learner in learners:
        name = f"efficacy, {target!r} by a {learner.name} model"
        try:
            _enough(train, held)
            found = efficacy(some, fakes, others, target, learner, seed)
            for e in found:
                note = "learnt from made rows, tested on held-out ones; the floor learnt from real ones"
                out.append(Measure(f"{name}: {e.name}", *e.made, floor=e.real[0], best="high", note=note))
            lost = found[0]
            out.append(Measure(f"{name}: {lost.name} lost", *lost.lost, floor=0.0, note="learnt from real less learnt from made"))
        except InputError as error:
            out.append(_not_measured(name, str(error)))
    return out


def _privacy(train: Table, held: Table, made: Table, seed: int) -> list[Measure]:
    share, closest = "closer to training than to held-out rows", "distance to the closest training row, 5 % quantile"
    copies = "exact copies of training rows"
    try:
        _enough(train, held)
        p = privacy(train, held, made, seed)
    except InputError as e:
        return [_not_measured(name, str(e)) for name in (share, closest, copies)]
    note = "share of made rows, as if there were as many rows of both; above 0.5 copies"
    return [
        Measure(share, *p.share, floor=0.5, best=0.5, note=note),
        Measure(closest, *p.closest, floor=p.closest_held, best=p.closest_held, note="below that of held-out rows copies"),
        Measure(copies, *p.copies, floor=p.copies_held, best="low", note="share of rows; the floor: of held-out ones"),
    ]


# -- a row as a picture ------------------------------------------------------------------------------------------------------

_LINE, _NAME, _BAR, _VALUE = 13, 110, 90, 70  # pixels
_SHOWN = 24  # columns
_INK, _PALE, _MARK = (32, 32, 32), (225, 225, 225), (214, 39, 40)


def _drawn(row: Table) -> Image.Image:
    columns = modelled(row)
    lines = columns[:_SHOWN]
    more = len(columns) - len(lines)
    page = Image.new("RGB", (_NAME + _BAR + _VALUE, _LINE * (len(lines) + (more > 0)) + 4), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(10)

    def write(x: int, y: int, text: str, width: int) -> None:
        while text and font.getlength(text) > width:
            text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
        pen.text((x, y), text, fill=_INK, font=font)

    for i, c in enumerate(lines):
        y, x0 = 2 + i * _LINE, _NAME
        value = row.of(c).numpy()
        write(2, y, c.name, _NAME - 6)
        write(x0 + _BAR + 5, y, c.write(value)[0] or "missing", _VALUE - 7)
        if isinstance(c, Numeric) and not np.isnan(value[0]):
            pen.line((x0, y + 6, x0 + _BAR, y + 6), fill=_PALE, width=3)
            at = x0 + _BAR * float(np.interp(value[0], c.values, c.levels))
            pen.rectangle((at - 1, y + 2, at + 1, y + 10), fill=_MARK)
    if more:
        write(2, 2 + len(lines) * _LINE, f"... and {more} columns more", _NAME + _BAR)
    return page

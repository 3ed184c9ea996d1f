"""Does the model repeat its training rows? Nearest neighbours, near and exact copies, and the gap of the loss.

closer to training   P(d(made, train) < d(made, held)) with as many training rows as held-out ones: 1/2 without memorising.
                     Made rows share neighbours, so the doubt is that of which real rows were trained on: with c_j made rows
                     whose nearest real row is j, n^2 / sum c_j^2 of them are independent; the p-value deals the names
                     "train" and "held" out anew (a permutation test)
near copy            s = d_1 / mean(d_2 ... d_(k+1)) over the nearest training rows, after Carlini et al. 2023 (2301.13188,
                     section 4.2), but called a copy if s is below the r-th smallest s of held-out rows, which cannot be
                     copies: of rows like them a share r / (held + 1) is called so too, whatever the distribution
                     (conformal calibration; Vovk et al. 2005), and K false alarms in n rows are beta-binomial
loss gap             mean loss of held-out rows less that of training rows; as an attack that tells members by their loss
                     (Yeom et al. 2018, 1709.01604): its area under the ROC curve, 1/2 without memorising
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval
from unnoise.core.measure import Examples, Measure
from unnoise.core.random import Streams
from unnoise.evaluation import plots
from unnoise.evaluation.encoders import Encoder
from unnoise.evaluation.neighbours import EXACT, Nearest, Vectors, nearest
from unnoise.evaluation.section import Drawing, Section

RATE = 1e-3
"""The share of fresh rows that may be called near copies."""
NEIGHBOURS = 32
"""How many training rows beyond the nearest say how far apart rows are around there."""
_CALIBRATION = 4000  # held-out rows are enough for a rate of one in a thousand
_FEWEST = 20  # held-out rows below which nothing is calibrated
_SHUFFLES = 2000
_SHOWN = 12


# -- closer to training rows than to held-out ones ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Closeness:
    """share: of made rows nearer to a training row than to any of as many held-out ones. ratio: median of d(train) / d(held)."""

    share: Interval
    p_value: float
    ratio: Interval


def closeness(train: Nearest, held: Nearest, count: int, seed: int = 0) -> Closeness:
    """train, held: the neighbours of the made rows among `count` rows of each kind. Neighbours equally near are drawn among."""
    n = len(train.distances)
    both = torch.cat([train.distances[:, :EXACT], held.distances[:, :EXACT]], 1)
    names = torch.cat([train.rows[:, :EXACT], held.rows[:, :EXACT] + count], 1)  # real rows 0 ... 2 count - 1
    tied = both <= both.amin(1, keepdim=True)
    u = Streams.of(seed, n).uniform("ties", both.shape[1:])
    winner = names.gather(1, (u * tied).argmax(1, keepdim=True))[:, 0]
    times = np.bincount(winner.numpy(), minlength=2 * count)  # c_j
    effective = n**2 / float((times**2).sum())
    p = float(times[:count].sum()) / n
    # the doubt about 1/2 needs no more than which real rows were called "train"
    rng = np.random.default_rng(seed)
    extreme = sum(int(rng.permutation(times)[:count].sum()) >= int(times[:count].sum()) for _ in range(_SHUFFLES))
    interval = intervals.share(p * effective, effective)
    d, e = train.distances[:, 0], held.distances[:, 0]
    ratio = torch.where(e > 0, d / e, torch.where(d > 0, torch.full_like(d, torch.inf), torch.ones_like(d))).sort().values
    reach = intervals.Z * 0.5 / math.sqrt(effective)
    low, middle, high = (float(ratio[round(q * (n - 1))]) for q in (max(0.0, 0.5 - reach), 0.5, min(1.0, 0.5 + reach)))
    return Closeness(interval, (extreme + 1) / (_SHUFFLES + 1), Interval(middle, low, high))


# -- near copies ----------------------------------------------------------------------------------------------------------------


def copy_score(near: Nearest) -> Tensor:
    """s = d_1 / mean(d_2, ...): (n,) float64, 0 for an exact copy, about 1 far from every training row."""
    d = near.distances
    if d.shape[1] < 2:
        raise InputError("near copies are told by at least two training rows")
    around = d[:, 1:].mean(1)
    return torch.where(around > 0, d[:, 0] / around, torch.zeros_like(around))


@dataclass(frozen=True)
class Copies:
    """Which made rows are called near copies: those with a score below `threshold`, as are `rate` of fresh rows.

    p_value: of so many or more, if all were fresh.
    """

    called: Tensor
    threshold: float
    rate: float
    p_value: float


def near_copies(made: Tensor, held: Tensor, rate: float = RATE) -> Copies:
    """From the scores of made (n,) and of held-out rows (h,). The rate is at least 1 / (h + 1)."""
    if len(held) < _FEWEST:
        raise InputError(f"near copies are told by held-out rows: {len(held)} are too few, at least {_FEWEST} are needed")
    rank = max(1, round(rate * (len(held) + 1)))
    threshold = float(held.sort().values[rank - 1])
    called = made < threshold
    p = intervals.below_rank(int(called.sum()), len(made), rank, len(held))
    return Copies(called, threshold, rank / (len(held) + 1), p)


# -- the section ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """Each row's loss under the model: of training rows (n,) and of held-out rows (m,), measured alike."""

    train: Tensor
    held: Tensor
    unit: str = "bits per dimension"


def memorisation_section(
    train: Examples,
    held: Examples,
    made: Examples,
    encoders: Sequence[Encoder] = (),
    losses: Losses | None = None,
    rate: float = RATE,
    seed: int = 0,
    progress: bool = False,
) -> Section:
    """Neighbours of the made rows, in the rows' own distance and in that of every encoder's features, and the loss gap."""
    measures: list[Measure] = []
    drawings: list[Drawing] = []
    notes: list[str] = []
    if len(made) < 1 or len(train) < 2:
        notes.append(f"Copies were not looked for: {len(made)} made and {len(train)} training rows.")
    else:
        for i, encoder in enumerate([None, *encoders]):
            try:
                space = "" if encoder is None else f", features of {encoder.name}"
                vectors = [_vectors(x, train, encoder, progress) for x in (train, held, made)]
                found = _found(vectors[0], vectors[1], vectors[2], rate, seed, progress)
                measures += [*(_exact(found) if i == 0 else []), *_figures(found, space)]
                notes += [n for n in found.notes if i == 0]
                drawings.append(_closest(train, made, found, "" if encoder is None else f" in the {space[2:]}"))
            except InputError as e:
                notes.append(f"{'Neighbours of the rows' if encoder is None else f'Neighbours{space}'}: {e}.")
        if encoders:
            notes.append(
                "An encoder that has learnt from the training rows sees them with other eyes than held-out or made rows: in its "
                "features rows that are no copies lie a little nearer to held-out rows. Copies are nearer to training rows in any."
            )
    if losses is not None:
        try:
            measures += _gap(losses)
            drawings.append(
                Drawing(
                    f"Loss of training and of held-out rows ({losses.unit})",
                    plots.histograms([("training", losses.train), ("held out", losses.held)], losses.unit),
                    "One curve where the model has learnt the distribution, two where it has learnt the rows.",
                )
            )
        except InputError as e:
            notes.append(f"The loss gap: {e}.")
    return Section("Memorisation", tuple(measures), tuple(drawings), tuple(notes))


@dataclass(frozen=True)
class _Found:
    near: Nearest  # of the made rows among all training rows
    closeness: Closeness | None
    copies: Copies | None
    scores: Tensor
    held_exact: Interval | None
    notes: tuple[str, ...]


def _vectors(x: Examples, train: Examples, encoder: Encoder | None, progress: bool) -> Vectors:
    if encoder is None or len(x) == 0:
        return Vectors.rows_of(x, train)
    return Vectors.of(encoder.features(x, train, progress))


def _found(train: Vectors, held: Vectors, made: Vectors, rate: float, seed: int, progress: bool) -> _Found:
    notes = []
    count = min(train.count, held.count)
    order = Streams.of(seed, train.count).uniform("subset", dtype=torch.float64).argsort()
    near = nearest(made, train.take(order[: count or None].tolist()), NEIGHBOURS + 1, progress)
    equal = near  # the neighbours among as many training rows as there are held-out ones
    near = Nearest(near.distances, order[near.rows])
    if 0 < count < train.count:
        rest = nearest(made, train.take(order[count:].tolist()), NEIGHBOURS + 1, progress)
        near = near.merged(Nearest(rest.distances, order[count:][rest.rows]))
    close = copies = exact = None
    scores = copy_score(near)
    if count < _FEWEST:
        notes.append(
            f"Only {held.count} held-out and {train.count} training rows: the neighbours of made rows cannot be judged "
            f"by them (at least {_FEWEST} are needed; hundreds tell more)."
        )
    else:
        held_order = Streams.of(seed, held.count).uniform("held", dtype=torch.float64).argsort().tolist()
        theirs = nearest(made, held.take(held_order[:count]), EXACT, progress)
        close = closeness(equal, theirs, count, seed)
        calibration = nearest(held.take(held_order[:_CALIBRATION]), train, NEIGHBOURS + 1, progress)
        same = calibration.distances[:, 0] == 0
        exact = intervals.share(int(same.sum()), len(same))
        if bool(same.any()):
            notes.append(
                f"{int(same.sum())} of {len(same)} held-out rows are equal to training rows: the data repeat themselves; "
                "these rows calibrate nothing."
            )
        try:
            copies = near_copies(scores, copy_score(calibration)[~same], rate)
        except InputError as e:
            notes.append(f"Near copies: {e}.")
    return _Found(near, close, copies, scores, exact, tuple(notes))


def _exact(found: _Found) -> list[Measure]:
    equal = found.near.distances[:, 0] == 0
    s = intervals.share(int(equal.sum()), len(equal))
    floor = found.held_exact.value if found.held_exact is not None else None
    note = f"{int(equal.sum())} of {len(equal)} rows are equal to a training row; real: of held-out rows"
    return [Measure("exact copies", s.value, s.low, s.high, floor, note=note)]


def _figures(found: _Found, space: str) -> list[Measure]:
    out = []
    if found.closeness is not None:
        c = found.closeness
        note = "share of made rows nearer to a training row than to any of as many held-out rows; p: memorised"
        out.append(Measure(f"closer to training rows{space}", c.share.value, c.share.low, c.share.high, 0.5, c.p_value, 0.5, note))
        if math.isfinite(c.ratio.value) and math.isfinite(c.ratio.high):
            note = "median of d(made, train) / d(made, held), nearest rows of as many"
            out.append(
                Measure(f"nearest-neighbour ratio{space}", c.ratio.value, c.ratio.low, c.ratio.high, 1.0, best=1.0, note=note)
            )
    if found.copies is not None:
        c2, n = found.copies, len(found.scores)
        s = intervals.share(int(c2.called.sum()), n)
        note = (
            f"{int(c2.called.sum())} of {n} rows: {c2.threshold:.2f} times as near to a training row as that row's neighbours "
            f"are; real: the share of fresh rows called so; p: all are fresh"
        )
        out.append(Measure(f"near copies{space}", s.value, s.low, s.high, c2.rate, c2.p_value, note=note))
    return out


def _closest(train: Examples, made: Examples, found: _Found, where: str) -> Drawing:
    ranked = found.scores.argsort(stable=True)
    same = found.near.distances[ranked, 0] == 0
    order = torch.cat([ranked[same][: _SHOWN // 2], ranked[~same]])[:_SHOWN].tolist()  # exact copies leave room for near ones
    k = min(4, found.near.rows.shape[1])
    left = made.draw(order)
    rows, captions = [], []
    for i, picture in zip(order, left):
        rows.append([picture, *train.draw(found.near.rows[i, :k].tolist())])
        d = ", ".join(f"{v:.3g}" for v in found.near.distances[i, :k].tolist())
        called = found.copies is not None and bool(found.copies.called[i])
        verdict = "exact copy" if found.near.distances[i, 0] == 0 else "near copy" if called else "no copy"
        captions.append(f"row {i}: {verdict}, score {float(found.scores[i]):.2f}, distances {d}")
    png = plots.sheet(rows, ["made", "nearest training rows"], captions)
    return Drawing(
        f"The likeliest copies and their nearest training rows{where}", png, "Ordered by the score, the likeliest first."
    )


def _gap(losses: Losses) -> list[Measure]:
    gap = intervals.difference(losses.held, losses.train)
    attack = intervals.auc(losses.train, losses.held)  # members have the lower loss
    note = f"{losses.unit}; held-out less training rows"
    told = "P(a held-out row's loss > a training row's): what an attacker gains from the loss; p: nothing"
    area = attack.interval
    return [
        Measure("loss gap", gap.value, gap.low, gap.high, 0.0, attack.p_value, 0.0, note),
        Measure("membership inference, area", area.value, area.low, area.high, 0.5, attack.p_value, 0.5, told),
    ]

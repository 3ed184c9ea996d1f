"""Does the model give every group its share, and is it as good for all? A group is a value of any attribute.

shares     known groups: k / n. Groups that a classifier predicts: of n rows c_j are called j, and P(called j | is i) = M_ij is
           counted on held-out real rows; the shares are the most likely p >= 0 with sum 1,
               p = argmax sum_j c_j log sum_i p_i M_ij,   by EM:  p_i <- p_i sum_j (c_j / n) M_ij / (M^T p)_j
           (Saerens, Latinne & Decaestecker 2002, Neural Comput. 14, for labels in place of posteriors). Their doubt, in c and
           in M, by bootstrap: c anew from the multinomial, the rows of M from Dirichlet(counts)
p-value    of "the shares are the target's": Pearson's chi-square against its own distribution by simulation, with the doubt in
           M, and in a target that was counted on training rows: valid however small the counts
quality    energy distance (unbiased: 0 in the mean for equal distributions) between made and held-out rows of one group, beside
           that of one half of these held-out rows and the other; that of the worst group less that of the best is the gap
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unnoise.core import intervals
from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval
from unnoise.core.measure import Attribute, Examples, Measure
from unnoise.evaluation import plots
from unnoise.evaluation.encoders import Classifier, Encoder
from unnoise.evaluation.maker import attribute_of, counts_of
from unnoise.evaluation.section import Section
from unnoise.evaluation.two_sample import Compared, Energy, compare

_DRAWS = 1000  # of the bootstrap
_SIMULATED = 10_000  # counts under the hypothesis
_NUMBERS = 4_000_000  # of drawn confusion matrices in memory at once
_LISTED = 24  # groups that get a line of their own
_MOST_CORRECTED = 100  # groups up to which a confusion matrix can be counted
_FEWEST = 20  # rows of a group below which its quality is not measured
_SOME = 500  # rows of a group are enough for a distance
_PERMUTATIONS = 199


# -- shares ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shares:
    """Of the groups, in order: the made rows' shares with their intervals; p_value: that they are the target's."""

    shares: tuple[Interval, ...]
    p_value: float


def target_of(attribute: Attribute) -> dict[str, float]:
    """The shares of an attribute's values among the rows where it is known. InputError if that is no row."""
    counts = counts_of(attribute).double()
    if counts.sum() == 0:
        raise InputError(f"attribute {attribute.name!r} is known of no row: it gives no shares to compare with")
    return dict(zip(attribute.values, (counts / counts.sum()).tolist()))


def known_shares(counts: Tensor, target: Tensor, seed: int = 0, counted: int | None = None) -> Shares:
    """counts (K,) of the made rows; target (K,), sum 1. Wilson's intervals.

    counted: of how many rows the target is the shares; None: it is given, without doubt.
    """
    n = int(counts.sum())
    if n < 1:
        raise InputError("the group is known of none of the made rows")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, _targets(rng, target, counted, _SIMULATED))
    p = _rarer(counts.double().numpy(), drawn, n * target.numpy())
    return Shares(tuple(intervals.share(int(k), n) for k in counts), p)


def predicted_shares(called: Tensor, confusion: Tensor, target: Tensor, seed: int = 0, counted: int | None = None) -> Shares:
    """called (K,): how many made rows the classifier calls what. confusion (K, K): how many real rows that are i it calls j.

    Groups without real rows are taken to be called right. counted: as of `known_shares`.
    """
    n = int(called.sum())
    if n < 1:
        raise InputError("there are no made rows whose group could be predicted")
    counts = confusion.double().numpy()
    counts = np.where(counts.sum(1, keepdims=True) > 0, counts, np.eye(len(counts)))
    m = counts / counts.sum(1, keepdims=True)
    c = called.double().numpy()
    best = _unmix(c[None], m[None])[0]
    rng = np.random.default_rng(seed)
    draws = min(_DRAWS, _NUMBERS // len(c) ** 2)
    unsure = _dirichlet(rng, counts, draws)
    drawn = _unmix(rng.multinomial(n, c / n, draws).astype(float), unsure)
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    expected = n * (target.numpy() @ m)
    draws = min(_SIMULATED, _NUMBERS // len(c) ** 2)
    others = np.einsum("bi,bij->bj", _targets(rng, target, counted, draws), _dirichlet(rng, counts, draws))
    simulated = rng.multinomial(n, others / others.sum(1, keepdims=True))
    each = (Interval(float(v), float(min(a, v)), float(max(b, v))) for v, a, b in zip(best, low, high))
    return Shares(tuple(each), _rarer(c, simulated, expected))


def _unmix(c: np.ndarray, m: np.ndarray, steps: int = 500) -> np.ndarray:
    """EM for p, problem by problem: c (B, K), m (B or 1, K, K) -> (B, K)."""
    f = c / c.sum(1, keepdims=True)
    p = np.full_like(f, 1 / f.shape[1])
    for _ in range(steps):
        q = (p[:, None] @ m)[:, 0]
        new = p * (m @ (f / np.maximum(q, 1e-300))[..., None])[..., 0]
        done = np.abs(new - p).max() < 1e-6
        p = new
        if done:
            break
    return p / p.sum(1, keepdims=True)


def _dirichlet(rng: np.random.Generator, counts: np.ndarray, draws: int) -> np.ndarray:
    """(draws, K, K): each row of proportions as its counts leave it open; 1 / K on top, for what a few rows did not show."""
    g = rng.standard_gamma(np.broadcast_to(counts + 1 / len(counts), (draws, *counts.shape)))
    return g / np.maximum(g.sum(2, keepdims=True), 1e-300)


def _targets(rng: np.random.Generator, target: Tensor, counted: int | None, draws: int) -> np.ndarray:
    """(draws, K): the shares that the target may stand for."""
    if counted is None:
        return np.broadcast_to(target.numpy(), (draws, len(target)))
    g = rng.standard_gamma(np.broadcast_to(counted * target.numpy(), (draws, len(target))))
    return g / g.sum(1, keepdims=True)


def _rarer(counts: np.ndarray, simulated: np.ndarray, expected: np.ndarray) -> float:
    """The share of simulated counts (B, K), and of the observed themselves, at least as far from the expected."""

    def far(c: np.ndarray) -> np.ndarray:
        # what cannot be, and is, is infinitely far
        off = (c - expected) ** 2
        return np.divide(off, expected, out=np.where(off > 0, np.inf, 0.0), where=expected > 0).sum(-1)

    return float(((far(simulated) >= far(counts) * (1 - 1e-12)).sum() + 1) / (len(simulated) + 1))


# -- quality by group -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quality:
    """Energy distance of a group's made rows to its held-out rows, and that of their halves."""

    made: Compared
    floor: float

    @property
    def error(self) -> float:
        """The standard error of the distance."""
        return (self.made.high - self.made.value) / intervals.Z


def group_quality(made: Tensor, held: Tensor, seed: int = 0) -> Quality:
    """Vectors of one group: (n, D) and (m, D); at least two made and four held-out rows, in random order."""
    return Quality(compare(Energy(), made, held, _PERMUTATIONS, seed), Energy()(held[::2], held[1::2]))


# -- the section ----------------------------------------------------------------------------------------------------------------


def fairness_section(
    train: Examples,
    held: Examples,
    made: Examples,
    name: str = "class",
    target: Mapping[str, float] | None = None,
    classifier: Classifier | None = None,
    encoder: Encoder | None = None,
    seed: int = 0,
) -> Section:
    """The groups are the values of attribute `name`.

    target: value -> share, not all 0, scaled to sum 1; None: the shares of the training rows. classifier: of that attribute; the
    made rows are grouped by what it sees in them, corrected for what it confuses; without, by what they were asked to be or, in a
    table, are. encoder: whose features' distances are the quality; without, those of the rows.
    """
    title, notes = f"Fairness: {name}", []
    real = attribute_of(train, name)
    try:
        if real is None:
            raise InputError(f"the training rows have no attribute {name!r}")
        if int((counts_of(real) > 0).sum()) < 2:
            raise InputError(f"the training rows have fewer than two values of {name!r}: there are no groups")
        if len(made) < 1:
            raise InputError("there are no made rows")
        wanted, counted = _target(real, target), int(counts_of(real).sum()) if target is None else None
        groups = _groups(held, made, train, name, real, classifier)
    except InputError as e:
        return Section(title, notes=(f"Fairness was not measured: {e}.",))
    if classifier is None:
        notes.append("Groups are what the rows were asked to be, or in a table are: no classifier looked at them.")
        shares = known_shares(groups.made, wanted, seed, counted)
    elif groups.confusion is None:
        notes.append(
            "Groups are what a classifier calls the rows, not corrected for what it confuses: too many or no held-out rows."
        )
        shares = known_shares(groups.made, wanted, seed, counted)
    else:
        right = float(groups.confusion.diagonal().sum() / groups.confusion.sum())
        notes.append(
            f"Groups are what the classifier {classifier.name} sees, {right:.1%} right on held-out rows; shares are corrected for "
            "what it confuses there, and the intervals hold the doubt in that."
        )
        shares = predicted_shares(groups.made, groups.confusion, wanted, seed, counted)
    source = "training rows" if target is None else "given target"
    measures = _share_measures(real.values, shares, wanted, int(groups.made.sum()), counted, source, seed, notes)
    drawings, sorry = plots.attempt(
        f"Shares of {name}", f"Bars: made rows; marks: {source}.", lambda: _share_bars(real.values, shares, wanted, source)
    )
    quality = _qualities(train, held, made, groups, encoder, seed, notes)
    if quality:
        measures += _quality_measures(real.values, quality, "features" if encoder else "the rows' vectors")
        about = "Energy distance to held-out rows of the group; marks: that of one half of these to the other."
        more, sorry_too = plots.attempt(f"Quality by {name}", about, lambda: _quality_bars(real.values, quality))
        drawings, sorry = drawings + more, sorry + sorry_too
    return Section(title, tuple(measures), drawings, (*notes, *sorry))


@dataclass(frozen=True)
class _Groups:
    made: Tensor  # counts (K,)
    confusion: Tensor | None
    codes: tuple[Tensor, Tensor]  # of held and made rows, grouped in one way


def _target(real: Attribute, target: Mapping[str, float] | None) -> Tensor:
    if target is None:
        target = target_of(real)
    if unknown := sorted(set(target) - set(real.values)):
        known = ", ".join(real.values[:8]) + (", ..." if len(real.values) > 8 else "")
        raise InputError(f"the target names {unknown[0]!r}, which is no value of {real.name!r}; there are {known}")
    shares = torch.tensor([float(target.get(v, 0.0)) for v in real.values], dtype=torch.float64)
    if not bool((shares >= 0).all() & shares.isfinite().all()) or float(shares.sum()) <= 0:
        raise InputError("the target's shares must be at least 0, finite and not all 0")
    return shares / shares.sum()


def _groups(held: Examples, made: Examples, train: Examples, name: str, real: Attribute, classifier: Classifier | None) -> _Groups:
    truth = _aligned(attribute_of(held, name), real, len(held))
    if classifier is None:
        said = attribute_of(made, name)
        if said is None:
            raise InputError(f"the made rows have no {name!r}, and there is no classifier to tell it")
        codes = _aligned(said, real, len(made))
        return _Groups(torch.bincount(codes[codes >= 0], minlength=len(real.values)), None, (truth, codes))
    place = torch.tensor([real.values.index(v) if v in real.values else -1 for v in classifier.attribute.values])
    if classifier.attribute.name != name or bool((place < 0).any()):
        raise InputError(f"the classifier tells {classifier.attribute.name!r} and not the values of {name!r}")
    seen = [place[classifier.probabilities(x, train).argmax(1)] if len(x) else truth for x in (held, made)]
    k = len(real.values)
    known = truth >= 0
    confusion = None
    if k <= _MOST_CORRECTED and bool(known.any()):
        confusion = torch.bincount(truth[known] * k + seen[0][known], minlength=k * k).reshape(k, k)
    return _Groups(torch.bincount(seen[1], minlength=k), confusion, (seen[0], seen[1]))


def _aligned(a: Attribute | None, real: Attribute, n: int) -> Tensor:
    """Codes into the values of `real`, -1 where unknown: (n,)."""
    if a is None:
        return torch.full((n,), -1, dtype=torch.int64)
    place = torch.tensor([*(real.values.index(v) if v in real.values else -1 for v in a.values), -1])
    return place[a.codes]


def _share_measures(
    values: tuple[str, ...], shares: Shares, wanted: Tensor, n: int, counted: int | None, source: str, seed: int, notes: list[str]
) -> list[Measure]:
    p = np.array([s.value for s in shares.shares])
    off = 0.5 * float(np.abs(p - wanted.numpy()).sum())
    rng = np.random.default_rng(seed)
    chance = rng.multinomial(n, _targets(rng, wanted, counted, 2000)) / n
    floor = float(0.5 * np.abs(chance - wanted.numpy()).sum(1).mean())
    told = f"half the sum of |share - {source}|; real: expected of {n} rows drawn from the target; p: made rows are such"
    out = [Measure("distance of the shares", off, floor=floor, p_value=shares.p_value, best="low", note=told)]
    order = np.argsort(-np.abs(p - wanted.numpy()), kind="stable")[:_LISTED]
    if len(values) > _LISTED:
        notes.append(f"Of {len(values)} groups the {_LISTED} that are furthest from the target are listed.")
    for i in sorted(order.tolist()):
        s, t = shares.shares[i], float(wanted[i])
        out.append(Measure(f"share of {values[i]}", s.value, s.low, s.high, t, best=round(t, 4), note=source))
    return out


def _qualities(
    train: Examples, held: Examples, made: Examples, groups: _Groups, encoder: Encoder | None, seed: int, notes: list[str]
) -> dict[int, Quality]:
    out, few = {}, []
    rng = np.random.default_rng(seed)
    for k in range(len(groups.made)):
        rows = [np.flatnonzero(codes.numpy() == k) for codes in groups.codes]
        if min(map(len, rows)) < _FEWEST:
            few.append(k)
            continue
        some = [rng.choice(r, min(len(r), _SOME), replace=False).tolist() for r in rows]
        try:
            y, x = (
                e.tensor(train, r).flatten(1) if encoder is None else encoder.features(e.take(r), train)
                for e, r in zip((held, made), some)
            )
            out[k] = group_quality(x, y, seed)
        except InputError as e:
            notes.append(f"Quality by group: {e}.")
            return {}
    if few:
        notes.append(
            f"Quality is not measured for {len(few)} of {len(groups.made)} groups, of which fewer than {_FEWEST} rows are known."
        )
    return out


def _quality_measures(values: tuple[str, ...], quality: dict[int, Quality], where: str) -> list[Measure]:
    out = [
        Measure(
            f"distance of {values[k]}",
            q.made.value,
            q.made.low,
            q.made.high,
            q.floor,
            q.made.p_value,
            note=f"energy distance in {where}",
        )
        for k, q in list(quality.items())[:_LISTED]
    ]
    if len(quality) > 1:
        worst, best = (f(quality, key=lambda k: quality[k].made.value) for f in (max, min))
        gap = quality[worst].made.value - quality[best].made.value
        reach = intervals.Z * math.hypot(quality[worst].error, quality[best].error)
        note = f"distance of {values[worst]} (worst) less {values[best]} (best); chosen after looking, so leaning up"
        out.insert(0, Measure("quality gap between groups", gap, max(0.0, gap - reach), gap + reach, 0.0, best="low", note=note))
    return out


def _share_bars(values: tuple[str, ...], shares: Shares, wanted: Tensor, source: str) -> bytes:
    shown = sorted(wanted.argsort(descending=True, stable=True)[:_LISTED].tolist())
    s = [shares.shares[i] for i in shown]
    return plots.bars(
        [values[i] for i in shown],
        [v.value for v in s],
        [v.low for v in s],
        [v.high for v in s],
        "share",
        wanted[shown].tolist(),
        source,
    )


def _quality_bars(values: tuple[str, ...], quality: dict[int, Quality]) -> bytes:
    shown = list(quality.items())[:_LISTED]
    made = [q.made for _, q in shown]
    names, floors = [values[k] for k, _ in shown], [q.floor for _, q in shown]
    return plots.bars(
        names, [m.value for m in made], [m.low for m in made], [m.high for m in made], "energy distance", floors, "real rows"
    )

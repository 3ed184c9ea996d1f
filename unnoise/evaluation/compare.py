"""Families of models side by side: what each trained model scored, what several seeds say together, what to think of it.

A figure of a family is the mean over its seeds with Student's 95 % interval (n seeds: t with n - 1 degrees of freedom); a share of
seeds has Wilson's. Seeds that failed are counted as failures and left out of no mean: what they scored is what they are worth,
except where they scored nothing at all.

failed: diverged, if training gave up, was rolled back, or left weights that are not finite; collapsed, if fewer modes were found,
or recall is lower, than the shares COLLAPSED of what real rows show.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

import torch

from unnoise.core.intervals import mean, share
from unnoise.core.measure import Measure
from unnoise.evaluation.families.family import Family
from unnoise.evaluation.plots import Panel, curves
from unnoise.evaluation.section import Drawing, Section
from unnoise.training.config import TrainConfig

COLLAPSED = {"modes": 0.2, "recall": 0.02}


@dataclass(frozen=True)
class Score:
    """One figure that all families are compared by. best: as in Measure."""

    key: str
    name: str
    best: str | float


QUALITY = (
    Score("frechet", "Fréchet distance", "low"),
    Score("kid", "KID", "low"),
    Score("precision", "precision", "high"),
    Score("density", "density", "high"),
)
DIVERSITY = (
    Score("recall", "recall", "high"),
    Score("coverage", "coverage", "high"),
    Score("modes", "modes found", "high"),
    Score("mode_kl", "KL of modes", "low"),
)
CONTROL = (Score("accuracy", "asked class shown", "high"),)


@dataclass(frozen=True)
class Outcome:
    """One model, trained and measured. scale: its size, 1 the size that is compared. seconds: of training.

    scores: by key, of the kind's own measures too. speed: network calls -> samples a second. by_calls: network calls -> scores;
    guidance: scale -> scores. failure: why it counts as failed, in a sentence; empty if it does not.
    """

    family: str
    scale: float
    seed: int
    trained: int
    sampling: int
    steps: tuple[int, ...]
    flops: float
    seconds: float
    rollbacks: int = 0
    failure: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    calls: int = 1
    speed: Mapping[int, float] = field(default_factory=dict)
    by_calls: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    guidance: Mapping[float, Mapping[str, float]] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self)

    @staticmethod
    def read(plain: Mapping[str, Any]) -> "Outcome":
        """The way back: JSON knows no tuples, and no keys but text."""
        numbers: dict[str, Callable[[str], float]] = {"speed": int, "by_calls": int, "guidance": float}
        keyed = {k: {number(n): v for n, v in plain[k].items()} for k, number in numbers.items()}
        return Outcome(**{**plain, **keyed, "steps": tuple(plain["steps"])})


@dataclass(frozen=True)
class OverSeeds:
    """The mean of several seeds, its interval (None with a single seed), and the spread between them."""

    value: float
    low: float | None
    high: float | None
    spread: float | None
    seeds: int


def over_seeds(values: Sequence[float]) -> OverSeeds | None:
    """None if none of the values is a number."""
    known = [v for v in values if math.isfinite(v)]
    if not known:
        return None
    if len(known) == 1:
        return OverSeeds(known[0], None, None, None, 1)
    x = torch.tensor(known, dtype=torch.float64)
    found = mean(x)
    return OverSeeds(found.value, found.low, found.high, float(x.std()), len(known))


def failure_of(scores: Mapping[str, float], real: Mapping[str, float]) -> str:
    """Whether a model that trained to its end has collapsed, judged by the same figures of real rows."""
    for key, bar in COLLAPSED.items():
        if key in scores and key in real and scores[key] < bar * real[key]:
            return f"collapsed: {key} {scores[key]:.3g}, of real rows {real[key]:.3g}"
    return ""


@dataclass(frozen=True)
class Effort:
    """What it takes to write a family down: lines of its own training recipe without blanks and comments, and hyper-parameters."""

    lines: int
    settings: int


def effort(family: Family) -> Effort:
    lines = sum(_lines(inspect.getsource(s)) for s in family.sources())
    config = family.training(1000, 64, 0, 0)
    free = {"steps", "batch", "seed", "checkpoint_every", "snapshot_every", "sample_every", "log_every", "keep", "bf16"}
    usual = TrainConfig()
    touched = [f.name for f in fields(config) if f.name not in free and getattr(config, f.name) != getattr(usual, f.name)]
    return Effort(lines, len(touched) + sum(leaves(s) for s in family.settings()))


def _lines(source: str) -> int:
    """Lines of code: no blanks, no comments, no docstrings."""
    count, quoted = 0, False
    for line in (raw.strip() for raw in source.splitlines()):
        if quoted or line.startswith('"""'):
            marks = line.count('"""')
            quoted = quoted != (marks % 2 == 1)
        elif line and not line.startswith("#"):
            count += 1
    return count


def leaves(value: object) -> int:
    """Numbers, words and flags in a frozen value, all the way down."""
    if not is_dataclass(value):
        return 1
    return sum(leaves(getattr(value, f.name)) for f in fields(value) if f.repr)


def ours(outcomes: Sequence[Outcome], family: str, scale: float = 1.0) -> list[Outcome]:
    return [o for o in outcomes if o.family == family and o.scale == scale]


def families_of(outcomes: Sequence[Outcome]) -> list[str]:
    return list(dict.fromkeys(o.family for o in outcomes))


# -- sections ----------------------------------------------------------------------------------------------------------------


def scores_section(
    title: str, scores: Sequence[Score], outcomes: Sequence[Outcome], real: Mapping[str, float], note: str
) -> Section:
    """A measure for every score and family that has it; `real`: the same between real rows, the floor."""
    rows = []
    for score in scores:
        for family in families_of(outcomes):
            found = over_seeds([o.scores.get(score.key, math.nan) for o in ours(outcomes, family)])
            if found is not None:
                name = f"{score.name}, {family}"
                spread = "" if found.spread is None else f"standard deviation over {found.seeds} seeds {found.spread:.3g}"
                rows.append(Measure(name, found.value, found.low, found.high, real.get(score.key), best=score.best, note=spread))
    return Section(title, tuple(rows), notes=(note,) if note else ())


def stability_section(outcomes: Sequence[Outcome]) -> Section:
    rows, notes = [], []
    for family in families_of(outcomes):
        mine = ours(outcomes, family)
        failed = [o for o in mine if o.failure]
        found = share(len(failed), len(mine))
        rows.append(
            Measure(f"seeds that failed, {family}", found.value, found.low, found.high, note=f"{len(failed)} of {len(mine)}")
        )
        spread = over_seeds([o.scores.get("frechet", math.nan) for o in mine])
        if spread is not None and spread.spread is not None and spread.value:
            rows.append(Measure(f"spread of the Fréchet distance, {family}", spread.spread / abs(spread.value), note="std / mean"))
        notes += [f"{family}, seed {o.seed}: {o.failure}." for o in failed]
    few, little = COLLAPSED["modes"], COLLAPSED["recall"]
    bar = (
        "A seed counts as failed if training gave up, was rolled back or left weights that are not finite (diverged), or if fewer "
        f"than {few:.0%} of the modes, or {little:.0%} of the recall, of real rows were found (collapsed)."
    )
    return Section("Training stability", tuple(rows), notes=(bar, *notes))


def speed_section(outcomes: Sequence[Outcome]) -> Section:
    """Samples a second by the number of network calls, and where diffusion loses by it."""
    rows = []
    for family in families_of(outcomes):
        for calls in sorted({c for o in ours(outcomes, family) for c in o.speed}):
            found = over_seeds([o.speed[calls] for o in ours(outcomes, family) if calls in o.speed])
            if found is not None:
                plural = "call" if calls == 1 else "calls"
                name = f"samples a second, {family}, {calls:,} {plural}"
                quality = over_seeds([o.by_calls.get(calls, {}).get("frechet", math.nan) for o in ours(outcomes, family)])
                note = "" if quality is None else f"Fréchet distance {quality.value:.4g} there"
                rows.append(Measure(name, found.value, found.low, found.high, best="high", note=note))
    return Section("Speed", tuple(rows), notes=tuple(_where_diffusion_loses(outcomes)))


def _where_diffusion_loses(outcomes: Sequence[Outcome]) -> list[str]:
    usual = {}
    for family in families_of(outcomes):
        found = over_seeds([o.speed[o.calls] for o in ours(outcomes, family) if o.calls in o.speed])
        if found is not None:
            usual[family] = (found.value, ours(outcomes, family)[0].calls)
    if "diffusion" not in usual:
        return []
    mine, calls = usual["diffusion"]
    out = []
    for family, (theirs, n) in usual.items():
        if family != "diffusion" and theirs > mine:
            out.append(
                f"Diffusion loses on speed per sample: as usually sampled ({calls:,} network calls) it makes {mine:.3g} samples a "
                f"second here, {family} ({n:,} call{'s' if n > 1 else ''}) {theirs:.3g}: {theirs / mine:.3g} times as many."
            )
        elif family != "diffusion":
            out.append(f"{family} makes {theirs:.3g} samples a second, diffusion, as usually sampled, {mine:.3g}.")
    return out


def verdicts(outcomes: Sequence[Outcome]) -> list[str]:
    """For every score: which family is ahead, and whether its seeds' interval clears the others'."""
    out = []
    for score in (*QUALITY, *DIVERSITY, *CONTROL):
        found = {f: over_seeds([o.scores.get(score.key, math.nan) for o in ours(outcomes, f)]) for f in families_of(outcomes)}
        known = {f: v for f, v in found.items() if v is not None}
        if len(known) < 2:
            continue
        sign = 1 if score.best == "low" else -1
        order = sorted(known, key=lambda f: sign * known[f].value)
        first, second = known[order[0]], known[order[1]]
        if first.low is None or second.low is None or first.high is None or second.high is None:
            doubt = "one seed each: no more than a hint"
        else:
            clear = first.high < second.low if sign == 1 else first.low > second.high
            doubt = "their intervals are apart" if clear else "their intervals overlap"
        out.append(f"{score.name}: {order[0]} {first.value:.4g} before {order[1]} {second.value:.4g} ({doubt}).")
    return out


def control_section(outcomes: Sequence[Outcome], real: Mapping[str, float], about: str, missing: str) -> Section:
    """The accuracy of the asked class, and the guidance curve of what can be guided. missing: why there is none."""
    if missing:
        return Section("Control", notes=(missing,))
    section = scores_section("Control", CONTROL, outcomes, real, about)
    drawings, measures = [], list(section.measures)
    for family in families_of(outcomes):
        curve = next((o.guidance for o in ours(outcomes, family) if o.guidance), None)
        if not curve:
            continue
        scales = sorted(curve)
        panels = []
        for score in (CONTROL[0], QUALITY[0], DIVERSITY[0]):
            if all(score.key in curve[g] for g in scales):
                values = [curve[g][score.key] for g in scales]
                panels.append(Panel(score.name, values, level=real.get(score.key), level_label="real"))
                measures += [
                    Measure(f"{score.name}, {family} at guidance {g:g}", v, best=score.best) for g, v in zip(scales, values)
                ]
        if panels:
            drawings.append(Drawing(f"Guidance, {family}", curves(scales, panels, "guidance scale"), "First seed."))
    others = [f for f in families_of(outcomes) if not any(o.guidance for o in ours(outcomes, f))]
    notes = (
        (*section.notes, f"{', '.join(others)}: no guidance; what is asked is followed as learned.") if others else section.notes
    )
    return Section(section.title, tuple(measures), tuple(drawings), notes)


def scaling_section(outcomes: Sequence[Outcome]) -> Section:
    """The score at several sizes of network, the compute held fixed."""
    rows = []
    scales = sorted({o.scale for o in outcomes})
    for score in (QUALITY[0], DIVERSITY[0]):
        for family in families_of(outcomes):
            for scale in scales:
                mine = ours(outcomes, family, scale)
                found = over_seeds([o.scores.get(score.key, math.nan) for o in mine])
                if found is not None:
                    name = f"{score.name}, {family}, {mine[0].trained / 1e6:.3g}M parameters"
                    note = f"{sum(mine[0].steps):,} steps, {found.seeds} seed{'s' if found.seeds > 1 else ''}"
                    rows.append(Measure(name, found.value, found.low, found.high, best=score.best, note=note))
    missing = () if len(scales) > 1 else ("Only one size was trained: --scales 0.5 1 2 shows how the score changes with it.",)
    return Section("Scaling, at the same compute", tuple(rows), notes=missing)


def complexity_section(families: Sequence[Family]) -> Section:
    rows = []
    for family in families:
        found = effort(family)
        rows.append(
            Measure(f"lines of recipe, {family.name}", found.lines, note="the family's own task and settings, counted from source")
        )
        rows.append(Measure(f"hyper-parameters, {family.name}", found.settings, note="fields that its recipe sets"))
    return Section("Training complexity", tuple(rows))


def compute_section(outcomes: Sequence[Outcome]) -> Section:
    """What each family was given and what it took."""
    rows = []
    for family in families_of(outcomes):
        mine = ours(outcomes, family)
        o, seconds = mine[0], over_seeds([m.seconds for m in mine])
        rows.append(Measure(f"parameters trained, {family}", o.trained, best="same", note=f"{o.sampling:,} of them to sample"))
        steps = " + ".join(f"{s:,}" for s in o.steps)
        rows.append(Measure(f"training compute in TFLOP, {family}", o.flops / 1e12, best="same", note=f"{steps} steps"))
        if seconds is not None:
            rows.append(Measure(f"seconds of training, {family}", seconds.value, seconds.low, seconds.high, best="same"))
    return Section("Equal means", tuple(rows))


# -- the terminal ------------------------------------------------------------------------------------------------------------


def side_by_side(
    outcomes: Sequence[Outcome], real: Mapping[str, float], families: Sequence[Family], own: Sequence[Score] = ()
) -> str:
    """A column a family, a line a figure: mean and half the interval over the seeds. own: the scores of this kind of data."""
    names = families_of(outcomes)
    lines: list[tuple[str, str, list[str]]] = []

    def add(label: str, floor: float | None, cell: Callable[[Sequence[Outcome]], str]) -> None:
        cells = [cell(ours(outcomes, n)) for n in names]
        if any(cells):
            lines.append((label, "" if floor is None else _short(floor), cells))

    add("parameters trained", None, lambda o: f"{o[0].trained:,}" if o else "")
    add("  needed to sample", None, lambda o: f"{o[0].sampling:,}" if o else "")
    add("training TFLOP", None, lambda o: f"{o[0].flops / 1e12:.3g}" if o else "")
    add("training seconds", None, lambda o: _mean_of([m.seconds for m in o]))
    add("steps", None, lambda o: "+".join(f"{s:,}" for s in o[0].steps) if o else "")
    add("seeds that failed", None, lambda o: f"{sum(bool(m.failure) for m in o)} of {len(o)}")
    for score in (*QUALITY, *DIVERSITY, *CONTROL, *own):
        arrow = {"low": " ↓", "high": " ↑"}.get(str(score.best), "")
        add(score.name + arrow, real.get(score.key), partial(_score_cell, score.key))
    for calls in (1, 4, 20, 1000):
        add(f"samples/s, {calls:,} call{'s' if calls > 1 else ''}", None, partial(_speed_cell, calls))
    add("samples/s as usual", None, lambda o: _mean_of([m.speed[m.calls] for m in o if m.calls in m.speed]))
    add("  network calls", None, lambda o: f"{o[0].calls:,}" if o else "")
    efforts = {f.name: effort(f) for f in families}
    add("lines of recipe", None, lambda o: str(efforts[o[0].family].lines) if o and o[0].family in efforts else "")
    add("hyper-parameters", None, lambda o: str(efforts[o[0].family].settings) if o and o[0].family in efforts else "")
    widths = [max(len(n), *(len(c[i]) for _, _, c in lines)) for i, n in enumerate(names)]
    first, floor = max(len(label) for label, _, _ in lines), max(4, *(len(f) for _, f, _ in lines))
    out = [f"{'':<{first}}  {'real':>{floor}}  " + "  ".join(f"{n:>{w}}" for n, w in zip(names, widths))]
    out += [f"{a:<{first}}  {f:>{floor}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths)) for a, f, cells in lines]
    return "\n".join(out)


def _score_cell(key: str, outcomes: Sequence[Outcome]) -> str:
    return _mean_of([o.scores.get(key, math.nan) for o in outcomes])


def _speed_cell(calls: int, outcomes: Sequence[Outcome]) -> str:
    return _mean_of([o.speed[calls] for o in outcomes if calls in o.speed])


def _mean_of(values: Sequence[float]) -> str:
    found = over_seeds(values)
    if found is None:
        return ""
    half = "" if found.high is None else f" ±{_short(found.high - found.value)}"
    return _short(found.value) + half


def _short(x: float) -> str:
    return f"{x:.3g}" if abs(x) < 1e5 else f"{x:.2e}"

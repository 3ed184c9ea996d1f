"""Diffusion against GANs and autoencoders on one's own data: equal parameters, equal compute, several seeds, one judge.

OUT/plan.json                     what is compared, how large, for how many steps; makes a second call go on with the first
OUT/runs/FAMILY-x1-seed0/         a run of the training loop (a folder a stage), and result.json once it is measured
OUT/sheets/FAMILY.png             samples beside real rows
OUT/compare.json  compare.html    the report
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from unnoise.control.sampling import Samples
from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.core.measure import Examples
from unnoise.core.random import derive
from unnoise.evaluation import compare as side
from unnoise.evaluation.compare import Outcome
from unnoise.evaluation.families.family import Contender, Family, Subject
from unnoise.evaluation.judge import Judge
from unnoise.evaluation.maker import prompts_like
from unnoise.evaluation.plots import sheet
from unnoise.evaluation.report import to_html
from unnoise.evaluation.section import Drawing, Section
from unnoise.recipes.comparison import (
    FAMILIES,
    Comparison,
    Data,
    Entry,
    entry_for,
    planned,
    read,
    refuse,
    rows_for,
    say_plan,
    write_json,
)
from unnoise.recipes.run import Interrupted
from unnoise.recipes.sources import Opened
from unnoise.training.loop import fit

CALLS = (1, 4, 20)
GUIDANCE = (1.0, 1.5, 2.0, 3.0)
_SLOW_CALLS = 1000


@dataclass(frozen=True)
class FamilyMaker:
    """A trained contender as the evaluation sees a generator (`unnoise.evaluation.maker.Maker`)."""

    name: str
    contender: Contender
    opened: Opened
    codec: Codec

    def make(self, prompts: Sequence[str | None], seed: int, guidance: float | None = None, calls: int | None = None) -> Examples:
        """One row a prompt; calls: of the network, for a family that can choose."""
        seeds = tuple(derive(seed, i) for i in range(len(prompts)))
        data = self.contender.sample(prompts, seeds, guidance, calls)
        samples = Samples(data, tuple(prompts), seeds, {}, self.codec)
        return self.opened.made(self.opened.raw(samples), prompts)


def compare(asked: Comparison, out: Path, say: Callable[[str], None] = print) -> list[Section]:
    """Train and measure what has not been yet, and write the report into `out`. Returns its sections.

    Raises InputError for data that cannot be compared on and for an `out` that holds something else; Interrupted, with all that was
    done saved, when it is asked to stop.
    """
    refuse(out)
    data = read(asked)
    families = [f for f in (FAMILIES[name](data.run) for name in asked.families) if _able(f, data.subject, say)]
    plan = planned(asked, data, out, say)
    judge = Judge.of(data.train.examples(), data.held.examples(), asked.samples, asked.condition, out / "judges")
    todo = [(f, 1.0, seed) for seed in range(asked.seeds) for f in families]
    todo += [(f, s, 0) for s in sorted(asked.scales) if s != 1 for f in families]
    for family, scale, _ in todo:
        entry_for(plan, family, data, scale, out)
    say_plan(plan, families, say)
    outcomes = []
    for i, (family, scale, seed) in enumerate(todo):
        folder = out / "runs" / f"{family.name}-x{scale:g}-seed{seed}"
        if (folder / "result.json").is_file():
            outcomes.append(Outcome.read(json.loads((folder / "result.json").read_text(encoding="utf-8"))))
            continue
        entry = plan.entries[f"{family.name} x{scale:g}"]
        say(f"[{i + 1} of {len(todo)}] {family.name}, seed {seed}: {entry.trained:,} parameters, {sum(entry.steps):,} steps")
        contender, outcome = _trained(family, entry, data, scale, seed, folder)
        maker = FamilyMaker(family.name, contender, data.train, data.subject.codec.build())
        outcome = measured(maker, outcome, judge, data, thorough=seed == 0 and scale == 1)
        if seed == 0 and scale == 1 and outcome.scores:
            _draw(maker, judge, bool(data.subject.classes), out / "sheets" / f"{family.name}.png")
        write_json(folder / "result.json", outcome.plain())
        outcomes.append(outcome)
    return _reported(asked, data, families, outcomes, judge, out, say)


def _able(family: Family, subject: Subject, say: Callable[[str], None]) -> bool:
    """Whether a family can learn this kind of data; if not, why."""
    try:
        with torch.device("meta"):
            family.contender(subject, 8)
    except InputError as e:
        say(f"left out: {e}")
        return False
    return True


# -- one model ---------------------------------------------------------------------------------------------------------------


def _trained(family: Family, entry: Entry, data: Data, scale: float, seed: int, folder: Path) -> tuple[Contender, Outcome]:
    """Train one model, or go on with it. A run that keeps diverging is an outcome too."""
    torch.manual_seed(derive(seed, f"weights/{family.name}") % 2**32)
    contender = family.contender(data.subject, entry.size)
    rows = rows_for(data, family, contender)
    seconds, rollbacks, failure = 0.0, 0, ""
    for stage, steps in enumerate(entry.steps):
        contender.enter(stage)
        run = folder / f"stage-{stage + 1}"
        config = family.training(steps, family.batch(data.run.train.batch), seed, stage)
        try:
            result = fit(contender, rows, config, run, resume=(run / "checkpoints").is_dir())
        except InputError as e:
            if "training diverged" not in str(e):
                raise
            failure = f"diverged: {str(e).split('training diverged: ')[-1]}"
        if not failure and result.interrupted:
            raise Interrupted(f"stopped in {folder.name}; the same command goes on from there")
        log = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        seconds += max((r["seconds"] for r in log if "seconds" in r), default=0.0)
        rollbacks += sum("event" in r for r in log)
        if failure:
            break
        contender.load_state_dict(result.ema[config.ema_widths[-1]])
    if not failure and rollbacks:
        failure = f"diverged: rolled back {rollbacks} times"
    if not failure and not all(bool(p.isfinite().all()) for p in contender.parameters()):
        failure = "diverged: weights that are not finite"
    contender.eval()
    flops = float(sum(f * s for f, s in zip(entry.flops, entry.steps)))
    outcome = Outcome(family.name, scale, seed, entry.trained, entry.sampling, entry.steps, flops, seconds, rollbacks, failure)
    return contender, replace(outcome, calls=contender.calls())


def measured(maker: FamilyMaker, outcome: Outcome, judge: Judge, data: Data, thorough: bool) -> Outcome:
    """The outcome with its scores; speed, few calls and guidance too if `thorough`."""
    prompts = judge.prompts(outcome.seed) if data.subject.classes else [None] * judge.n
    try:
        scores = judge.scores(maker.make(prompts, seed=derive(outcome.seed, "samples")), prompts)
    except InputError as e:  # what it makes is no data
        return replace(outcome, failure=outcome.failure or f"diverged: {e}")
    outcome = replace(outcome, scores=scores, failure=outcome.failure or side.failure_of(scores, judge.real))
    if not thorough:
        return outcome
    chooses = maker.name == "diffusion"
    speed = {c: samples_per_second(maker, prompts, c) for c in ((*CALLS, _SLOW_CALLS) if chooses else ())}
    speed[outcome.calls] = samples_per_second(maker, prompts, None)
    by_calls: dict[int, Mapping[str, float]] = {outcome.calls: scores}
    guidance: dict[float, Mapping[str, float]] = {}
    if chooses:
        for calls in CALLS:
            by_calls[calls] = judge.scores(maker.make(prompts, seed=derive(outcome.seed, "samples"), calls=calls), prompts)
        for scale in GUIDANCE if data.subject.classes else ():
            guidance[scale] = judge.scores(maker.make(prompts, seed=derive(outcome.seed, "samples"), guidance=scale), prompts)
    return replace(outcome, speed=speed, by_calls=by_calls, guidance=guidance)


def samples_per_second(maker: FamilyMaker, prompts: Sequence[str | None], calls: int | None) -> float:
    """Of a batch of 64 (16 where it is long), after a small one to warm up."""
    n = 16 if calls == _SLOW_CALLS else 64
    asked = [prompts[i % len(prompts)] for i in range(n)]
    if calls != _SLOW_CALLS:
        maker.make(asked[:4], 0, calls=calls)
    began = time.perf_counter()
    maker.make(asked, 1, calls=calls)
    return n / (time.perf_counter() - began)


# -- the report --------------------------------------------------------------------------------------------------------------


def _draw(maker: FamilyMaker, judge: Judge, told: bool, file: Path) -> None:
    """Two lines of real rows, four of this family's."""
    asked: list[str | None] = [None] * 48
    if told:
        asked = sorted(prompts_like(judge.train, 48, 7, judge.attribute), key=str)
    made = maker.make(asked, seed=7).draw(range(48))
    real = judge.held.draw(range(min(24, len(judge.held))))
    rows = [real[i : i + 12] for i in range(0, len(real), 12)] + [made[i : i + 12] for i in range(0, 48, 12)]
    captions = ["real"] * (len(rows) - 4) + [
        ", ".join(dict.fromkeys(p for p in asked[i : i + 12] if p)) or maker.name for i in range(0, 48, 12)
    ]
    with atomically(file) as half:
        half.write_bytes(sheet(rows, (), captions))


def _reported(
    asked: Comparison, data: Data, families: Sequence[Family], outcomes: Sequence[Outcome], judge: Judge, out: Path,
    say: Callable[[str], None],
) -> list[Section]:  # fmt: skip
    real = judge.real
    own = [side.Score(m.name, m.name, m.best) for m in judge.own]
    names = [f.name for f in families]
    sheets = [(n, out / "sheets" / f"{n}.png") for n in names]
    sections = [
        Section("In short", notes=(*side.verdicts(outcomes),)),
        side.compute_section(outcomes),
        side.stability_section(outcomes),
        side.scores_section("Quality", side.QUALITY, outcomes, real, judge.about),
        side.scores_section("Diversity", side.DIVERSITY, outcomes, real, judge.about_modes),
        side.control_section(outcomes, real, judge.about_control, data.missing),
        side.speed_section(outcomes),
        side.scaling_section(outcomes),
        side.complexity_section(families),
        *([side.scores_section("Measures of this kind of data", own, outcomes, real, "")] if own else []),
        Section("Samples", drawings=tuple(Drawing(n, f.read_bytes(), "Real rows above.") for n, f in sheets if f.is_file())),
    ]
    table = side.side_by_side([o for o in outcomes if o.scale == 1], real, families, own)
    facts = {
        "data": data.train.account(),
        "families": " ".join(f"{f.name}: {f.about}." for f in families),
        "means": f"equal parameters (within 5 %), equal training compute, {asked.seeds} seeds; ± is half a 95 % interval",
    }
    write_json(out / "compare.json", {"facts": facts, "real": real, "outcomes": [o.plain() for o in outcomes], "table": table})
    with atomically(out / "compare.html") as half:
        half.write_text(to_html(sections, f"{Path(asked.data).name}: families compared", facts), encoding="utf-8")
    say("\n" + table + "\n\n" + "\n".join(n for s in sections[:1] for n in s.notes))
    say("\n".join(n for s in sections if s.title in ("Speed", "Training stability", "Control") for n in s.notes))
    say(f"\nthe report is in {out / 'compare.html'}")
    return sections

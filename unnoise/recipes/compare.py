"""Diffusion against GANs and autoencoders on one's own data: equal parameters, equal compute, several seeds, one judge.

    OUT/plan.json                     what is compared, how large, for how many steps; makes a second call go on with the first
    OUT/runs/FAMILY-x1-seed0/         a run of the training loop (a folder a stage), and result.json once it is measured
    OUT/sheets/FAMILY.png             samples beside real rows
    OUT/compare.json  compare.html    the report

Compute is counted in floating-point operations of real training steps. The budget is given in seconds: those that the diffusion
model's steps take here. Every other family gets as many operations, and what it takes in seconds is said.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.measure import Examples
from unnoise.core.random import derive
from unnoise.evaluation import compare as side
from unnoise.evaluation.compare import Outcome
from unnoise.evaluation.families.adversarial import Adversarial
from unnoise.evaluation.families.family import Contender, Family, Subject, fitted_size, flops_per_step, parameters
from unnoise.evaluation.families.quantised import Quantised
from unnoise.evaluation.families.variational import Variational
from unnoise.evaluation.judge import Judge
from unnoise.evaluation.maker import prompts_like
from unnoise.evaluation.plots import sheet
from unnoise.evaluation.report import to_html
from unnoise.evaluation.section import Drawing, Section
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.model import Samples
from unnoise.recipes.contender import GRAIN, Diffusion
from unnoise.recipes.options import Options
from unnoise.recipes.pictures import pictures
from unnoise.recipes.run import Run
from unnoise.recipes.sources import Opened, OpenPictures, OpenTable, PictureSource, TableSource, source_of
from unnoise.recipes.tables import tables
from unnoise.recipes.train import Interrupted
from unnoise.training.files import atomically
from unnoise.training.loop import fit, measure_step_seconds

FAMILIES: Mapping[str, Callable[[Run], Family]] = {
    "diffusion": lambda run: Diffusion(run),
    "gan": lambda run: Adversarial(),
    "style-gan": lambda run: Adversarial(style=True),
    "vae": lambda run: Variational(),
    "vq": lambda run: Quantised(),
}
FEWEST = 50
"""Real rows."""
CALLS = (1, 4, 20)
GUIDANCE = (1.0, 1.5, 2.0, 3.0)
_SLOW_CALLS = 1000
_STEPS = 3000  # that the diffusion model should be able to take within its budget: what its size is chosen by


@dataclass(frozen=True)
class Comparison:
    """What is asked for.

    budget: seconds of the diffusion model's training, or, with `counted`, operations in TFLOP. scales: sizes relative to the
    compared one, of which all but 1 are trained with the first seed alone. samples: made of each model. unconditional: the models
    are not told the classes, which still judge. width: of the diffusion model; None: the largest that takes 3000 steps in the budget.
    """

    data: str
    families: tuple[str, ...] = tuple(FAMILIES)
    seeds: int = 3
    budget: float = 600.0
    counted: bool = False
    scales: tuple[float, ...] = (1.0,)
    samples: int = 1000
    condition: str | None = None
    unconditional: bool = False
    size: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        for name in self.families:
            if name not in FAMILIES:
                near = get_close_matches(name, FAMILIES, n=1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FAMILIES)}"
                raise InputError(f"there is no family {name!r}; {hint}")
        if not self.families or len(set(self.families)) != len(self.families):
            raise InputError("name at least one family, and each once")
        if self.seeds < 1 or self.samples < FEWEST:
            raise InputError(f"seeds {self.seeds} must be at least 1 and samples {self.samples} at least {FEWEST}")
        if not (self.budget > 0 and math.isfinite(self.budget)):
            raise InputError(f"budget {self.budget:g}: must be positive")
        if 1.0 not in self.scales or not all(0 < s <= 16 for s in self.scales):
            raise InputError(f"scales {self.scales}: relative sizes of up to 16, and 1 must be among them")
        if self.width is not None and (self.width < GRAIN or self.width % GRAIN):
            raise InputError(f"width {self.width}: a multiple of {GRAIN}, such as 64 or 128")


@dataclass(frozen=True)
class Data:
    """What was read, parted into what is learned from and what is kept to judge by."""

    train: Opened
    held: Opened
    subject: Subject
    run: Run
    missing: str
    """Why there is no control to measure; empty where there is."""

    def told(self, drop: float) -> Opened:
        """The training rows, with this share of the classes withheld."""
        if isinstance(self.train, OpenPictures):
            p = self.train.pictures
            return OpenPictures(replace(p, options=replace(p.options, caption_drop=drop)))
        assert isinstance(self.train, OpenTable)
        return replace(self.train, source=replace(self.train.source, caption_drop=drop))


@dataclass(frozen=True)
class Entry:
    """What was decided for one family at one size."""

    size: int
    trained: int
    sampling: int
    flops: tuple[int, ...]
    """Of one step of each stage."""
    steps: tuple[int, ...]


@dataclass
class Plan:
    """What plan.json holds. `same`: what must not change between calls."""

    same: dict[str, Any]
    flops: float
    entries: dict[str, Entry] = field(default_factory=dict)

    def save(self, file: Path) -> None:
        entries = {k: vars(e) for k, e in self.entries.items()}
        write_json(file, {"same": self.same, "flops": self.flops, "entries": entries})

    @staticmethod
    def load(file: Path) -> "Plan":
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
            entries = {
                k: Entry(**{**e, "flops": tuple(e["flops"]), "steps": tuple(e["steps"])}) for k, e in plain["entries"].items()
            }
            return Plan(plain["same"], plain["flops"], entries)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f"{file} is damaged ({e}); choose another --out") from None


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
    plan = _planned(asked, data, out, say)
    judge = Judge.of(data.train.examples(), data.held.examples(), asked.samples, asked.condition, out / "judges")
    todo = [(f, 1.0, seed) for seed in range(asked.seeds) for f in families]
    todo += [(f, s, 0) for s in sorted(asked.scales) if s != 1 for f in families]
    for family, scale, _ in todo:
        _entry(plan, family, data, scale, out)
    _say_plan(plan, families, say)
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


def refuse(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out wants a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "plan.json").is_file():
        raise InputError(f"{out} exists and is no comparison; choose another --out")


def read(asked: Comparison) -> Data:
    source = source_of(asked.data, PictureOptions(size=asked.size), asked.condition)
    opened = source.open(progress=True)
    n = len(opened.told())
    if n < FEWEST:
        raise InputError(f"{asked.data} has {n} rows; a comparison needs at least {FEWEST}, some of which are held out to judge by")
    train, held = opened.split(0.1 if n >= 20_000 else 0.3)
    classes: tuple[str, ...] = ()
    missing = ""
    if isinstance(opened, OpenPictures) and isinstance(source, PictureSource):
        classes = opened.pictures.classes or ()
        run = pictures(opened, source, Options())
        codec: PixelsConfig | TableCodecConfig = opened.pictures.codec()
        if not classes:
            missing = "No classes are known of these pictures: models are told nothing, and there is no control to measure."
    elif isinstance(opened, OpenTable) and isinstance(source, TableSource):
        classes = tuple(dict.fromkeys(p for p in opened.told() if p))
        run, codec = tables(opened, source, Options()), opened.table.config
        if not classes:
            missing = "Rows are told nothing, so there is no control to measure: --condition names a column of categories."
    else:
        raise InputError(f"{asked.data}: a {type(opened).__name__} cannot be compared on")
    if len(classes) == 1:
        missing = f"There is one class only ({classes[0]!r}): nothing can be asked for, so there is no control to measure."
    if asked.unconditional:
        missing = "The models were not told the classes (--unconditional), so there is no control to measure."
    return Data(train, held, Subject(codec, () if missing else classes), run, missing)


def _able(family: Family, subject: Subject, say: Callable[[str], None]) -> bool:
    """Whether a family can learn this kind of data; if not, why."""
    try:
        with torch.device("meta"):
            family.contender(subject, 8)
    except InputError as e:
        say(f"left out: {e}")
        return False
    return True


# -- equal means -------------------------------------------------------------------------------------------------------------


def _planned(asked: Comparison, data: Data, out: Path, say: Callable[[str], None]) -> Plan:
    """The plan of an earlier call, if it is the same comparison, or a new one, with the diffusion model's size and the compute."""
    same = {
        "data": data.train.fingerprint(), "budget": asked.budget, "counted": asked.counted, "condition": asked.condition,
        "unconditional": asked.unconditional, "width": asked.width, "samples": asked.samples,
    }  # fmt: skip
    file = out / "plan.json"
    if file.is_file():
        plan = Plan.load(file)
        for key, value in same.items():
            if plan.same.get(key) != value:
                raise InputError(f"{out} holds a comparison with {key} {plan.same.get(key)}, not {value}; choose another --out")
        return plan
    family = Diffusion(data.run)
    sizes = (asked.width // GRAIN,) if asked.width else (4, 6, 8, 12)
    chosen = None
    for size in sizes:
        contender = family.contender(data.subject, size)
        rows = rows_for(data, family, contender)
        per_step = flops_per_step(contender, rows, data.run.train.batch)
        if asked.counted:
            steps = max(10, math.floor(asked.budget * 1e12 / per_step))
        else:
            seconds = measure_step_seconds(contender, rows, family.training(100, data.run.train.batch, 0, 0))
            steps = max(10, math.floor(asked.budget / seconds))
        if chosen is None or steps >= _STEPS:
            chosen = size, steps, per_step
        if steps < _STEPS:
            break
    assert chosen is not None
    size, steps, per_step = chosen
    budget = f"{asked.budget:g} {'TFLOP' if asked.counted else 's'}"
    say(f"{family.about}: width {GRAIN * size}, {steps:,} steps of {per_step / 1e9:.3g} GFLOP in the budget of {budget}")
    plan = Plan(same, float(steps) * per_step)
    count = _counted(family.contender(data.subject, size))
    plan.entries["diffusion x1"] = Entry(size, *count, (per_step,), (steps,))
    out.mkdir(parents=True, exist_ok=True)
    plan.save(file)
    return plan


def _counted(contender: Contender) -> tuple[int, int]:
    return parameters([contender]), parameters(contender.sampled())


def _entry(plan: Plan, family: Family, data: Data, scale: float, out: Path) -> Entry:
    """As many parameters as the diffusion model of that scale, as many operations as the budget has."""
    key = f"{family.name} x{scale:g}"
    if key in plan.entries:
        return plan.entries[key]
    base = plan.entries["diffusion x1"]
    if isinstance(family, Diffusion):
        size = max(1, round(base.size * math.sqrt(scale)))
    else:
        size = fitted_size(lambda s: family.contender(data.subject, s), _entry(plan, Diffusion(data.run), data, scale, out).trained)
    contender = family.contender(data.subject, size)
    rows = rows_for(data, family, contender)
    flops, steps = [], []
    for stage, share in enumerate(contender.shares):
        contender.enter(stage)
        flops.append(flops_per_step(contender, rows, data.run.train.batch))
        steps.append(max(10, round(share * plan.flops / flops[-1])))
    plan.entries[key] = Entry(size, *_counted(contender), tuple(flops), tuple(steps))
    plan.save(out / "plan.json")
    return plan.entries[key]


def rows_for(data: Data, family: Family, contender: Contender) -> Any:
    """The training rows, prepared for what this contender is told."""
    return data.told(family.drop).training(data.subject.codec.build(), contender.told())


def _say_plan(plan: Plan, families: Sequence[Family], say: Callable[[str], None]) -> None:
    say(f"{'':<18} {'trained':>10} {'to sample':>10} {'GFLOP/step':>12} {'steps':>14} {'TFLOP':>8}")
    for key, e in plan.entries.items():
        if key.rsplit(" ", 1)[0] in {f.name for f in families}:
            each = "+".join(f"{f / 1e9:.3g}" for f in e.flops)
            steps = "+".join(f"{s:,}" for s in e.steps)
            total = sum(f * s for f, s in zip(e.flops, e.steps)) / 1e12
            say(f"{key:<18} {e.trained:>10,} {e.sampling:>10,} {each:>12} {steps:>14} {total:>8.3g}")


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
        config = family.training(steps, data.run.train.batch, seed, stage)
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


def write_json(file: Path, value: Any) -> None:
    with atomically(file) as half:
        half.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

"""What `unnoise compare` is asked for, the data parted, and equal means: who is how large, and trains for how long.

Compute is counted in floating-point operations of real training steps. A budget in seconds is what the diffusion model's steps take
here; every other family gets as many operations, and what it takes in seconds is said.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unnoise.core.errors import InputError, nearest
from unnoise.core.files import atomically
from unnoise.core.measure import FEWEST
from unnoise.evaluation.families.adversarial import Adversarial
from unnoise.evaluation.families.family import Contender, Family, Subject, fitted_size, flops_per_step, parameters
from unnoise.evaluation.families.quantised import Quantised
from unnoise.evaluation.families.variational import Variational
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.recipes.contender import GRAIN, Diffusion
from unnoise.recipes.options import Options
from unnoise.recipes.pictures import plain
from unnoise.recipes.run import Run
from unnoise.recipes.sources import Opened, OpenPictures, OpenTable, PictureSource, TableSource, source_of, unchanged
from unnoise.recipes.tables import tables
from unnoise.training.loop import measure_step_seconds

FAMILIES: Mapping[str, Callable[[Run], Family]] = {
    "diffusion": lambda run: Diffusion(run),
    "gan": lambda run: Adversarial(),
    "style-gan": lambda run: Adversarial(style=True),
    "vae": lambda run: Variational(),
    "vq": lambda run: Quantised(),
}
_STEPS = 3000  # that the diffusion model should be able to take within its budget: what its size is chosen by


@dataclass(frozen=True)
class Comparison:
    """What is asked for."""

    data: str
    """Pictures (a folder, zip or npz) or a csv table."""
    families: tuple[str, ...] = tuple(FAMILIES)
    """Of diffusion, gan, style-gan, vae, vq."""
    seeds: int = 3
    """Models of each family."""
    budget: str = "10m"
    """Training time of a diffusion model here (90s, 10m, 1h), or what it may compute (5TFLOP); others get as many operations."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of network to compare, relative to the usual: 0.5 1 2 shows the scaling. All but 1 with the first seed alone."""
    samples: int = 1000
    """Rows that each model makes to be judged by, at most as many as half of the rows held out."""
    condition: str | None = None
    """For tables: the column of categories that rows are told."""
    unconditional: bool = False
    """Tell the models no classes; the classes still judge."""
    size: int | None = None
    """Side of the pictures in pixels."""
    width: int | None = None
    """Width of the diffusion model, a multiple of 16. Not given: the largest that takes 3,000 steps within the budget."""

    def __post_init__(self) -> None:
        for name in self.families:
            if name not in FAMILIES:
                near = nearest(name, FAMILIES, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FAMILIES)}"
                raise InputError(f"there is no family {name!r}; {hint}")
        if not self.families or len(set(self.families)) != len(self.families):
            raise InputError("name at least one family, and each once")
        if self.seeds < 1 or self.samples < FEWEST:
            raise InputError(f"seeds {self.seeds} must be at least 1 and samples {self.samples} at least {FEWEST}")
        if budget_of(self.budget)[0] <= 0:
            raise InputError(f"budget {self.budget}: must be positive")
        if 1.0 not in self.scales or not all(0 < s <= 16 for s in self.scales):
            raise InputError(f"scales {self.scales}: relative sizes of up to 16, and 1 must be among them")
        if self.width is not None and (self.width < GRAIN or self.width % GRAIN):
            raise InputError(f"width {self.width}: a multiple of {GRAIN}, such as 64 or 128")


def budget_of(text: str) -> tuple[float, bool]:
    """90, 90s, 10m, 1.5h -> (seconds, False); 5TFLOP, 300GFLOP -> (TFLOP, True). InputError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|GFLOP|TFLOP|PFLOP|)", text.strip())
    if found is None:
        raise InputError(f"--budget {text!r} is neither a time nor a number of operations; say 90s, 10m, 1h or 5TFLOP")
    unit = found[2]
    each = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "GFLOP": 1e-3, "TFLOP": 1.0, "PFLOP": 1e3}[unit]
    return float(found[1]) * each, unit.endswith("FLOP")


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
        """What `save` wrote. InputError for a file that is damaged."""
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
            entries = {
                k: Entry(**{**e, "flops": tuple(e["flops"]), "steps": tuple(e["steps"])}) for k, e in plain["entries"].items()
            }
            return Plan(plain["same"], plain["flops"], entries)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f"{file} is damaged ({e}); choose another --out") from None


def refuse(out: Path) -> None:
    """InputError for a folder that holds something else than a comparison."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out wants a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "plan.json").is_file():
        raise InputError(f"{out} exists and is no comparison; choose another --out")


def read(asked: Comparison) -> Data:
    """The data, parted. Raises InputError for what cannot be read, and for too few rows."""
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
        run = plain(opened, source, Options())
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


# -- equal means -------------------------------------------------------------------------------------------------------------


def planned(asked: Comparison, data: Data, out: Path, say: Callable[[str], None]) -> Plan:
    """The plan of an earlier call, or a new one, with the diffusion model's size and the compute.

    InputError if the earlier call was another comparison.
    """
    amount, counted = budget_of(asked.budget)
    same = {
        "data": data.train.fingerprint(), "budget": amount, "counted": counted, "condition": asked.condition,
        "unconditional": asked.unconditional, "width": asked.width, "samples": asked.samples,
    }  # fmt: skip
    file = out / "plan.json"
    if file.is_file():
        plan = Plan.load(file)
        for key, value in same.items():
            if plan.same.get(key) != value and not (key == "data" and unchanged(str(plan.same.get(key)), str(value))):
                raise InputError(f"{out} holds a comparison with {key} {plan.same.get(key)}, not {value}; choose another --out")
        return plan
    family = Diffusion(data.run)
    sizes = (asked.width // GRAIN,) if asked.width else (4, 6, 8, 12)
    chosen = None
    for size in sizes:
        contender = family.contender(data.subject, size)
        rows = rows_for(data, family, contender)
        per_step = flops_per_step(contender, rows, data.run.train.batch)
        if counted:
            steps = max(10, math.floor(amount * 1e12 / per_step))
        else:
            seconds = measure_step_seconds(contender, rows, family.training(100, data.run.train.batch, 0, 0))
            steps = max(10, math.floor(amount / seconds))
        if chosen is None or steps >= _STEPS:
            chosen = size, steps, per_step
        if steps < _STEPS:
            break
    assert chosen is not None
    size, steps, per_step = chosen
    budget = f"{amount:g} {'TFLOP' if counted else 's'}"
    say(f"{family.about}: width {GRAIN * size}, {steps:,} steps of {per_step / 1e9:.3g} GFLOP in the budget of {budget}")
    plan = Plan(same, float(steps) * per_step)
    count = _counted(family.contender(data.subject, size))
    plan.entries["diffusion x1"] = Entry(size, *count, (per_step,), (steps,))
    out.mkdir(parents=True, exist_ok=True)
    plan.save(file)
    return plan


def _counted(contender: Contender) -> tuple[int, int]:
    return parameters([contender]), parameters(contender.sampled())


def entry_for(plan: Plan, family: Family, data: Data, scale: float, out: Path) -> Entry:
    """As many parameters as the diffusion model of that scale, as many operations as the budget has."""
    key = f"{family.name} x{scale:g}"
    if key in plan.entries:
        return plan.entries[key]
    base = plan.entries["diffusion x1"]
    if isinstance(family, Diffusion):
        size = max(1, round(base.size * math.sqrt(scale)))
    else:
        size = fitted_size(
            lambda s: family.contender(data.subject, s), entry_for(plan, Diffusion(data.run), data, scale, out).trained
        )
    contender = family.contender(data.subject, size)
    rows = rows_for(data, family, contender)
    flops, steps = [], []
    for stage, share in enumerate(contender.shares):
        contender.enter(stage)
        flops.append(flops_per_step(contender, rows, family.batch(data.run.train.batch)))
        steps.append(max(10, round(share * plan.flops / flops[-1])))
    plan.entries[key] = Entry(size, *_counted(contender), tuple(flops), tuple(steps))
    plan.save(out / "plan.json")
    return plan.entries[key]


def rows_for(data: Data, family: Family, contender: Contender) -> Any:
    """The training rows, prepared for what this contender is told."""
    return data.told(family.drop).training(data.subject.codec.build(), contender.told())


def say_plan(plan: Plan, families: Sequence[Family], say: Callable[[str], None]) -> None:
    say(f"{'':<18} {'trained':>10} {'to sample':>10} {'GFLOP/step':>12} {'steps':>14} {'TFLOP':>8}")
    for key, e in plan.entries.items():
        if key.rsplit(" ", 1)[0] in {f.name for f in families}:
            each = "+".join(f"{f / 1e9:.3g}" for f in e.flops)
            steps = "+".join(f"{s:,}" for s in e.steps)
            total = sum(f * s for f, s in zip(e.flops, e.steps)) / 1e12
            say(f"{key:<18} {e.trained:>10,} {e.sampling:>10,} {each:>12} {steps:>14} {total:>8.3g}")


def write_json(file: Path, value: Any) -> None:
    with atomically(file) as half:
        half.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

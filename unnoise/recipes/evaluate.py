"""A model, or a folder of samples, measured against real data: every section of the report, for whatever kind of data it is.

The real rows are split in two, by a hash of each: training rows, from which all feature networks learn, and rows held out, with
which samples are compared. A run that was trained with rows held out has kept back just these.
"""

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from unnoise.core.errors import InputError
from unnoise.core.measure import Examples
from unnoise.core.random import derive
from unnoise.core.state import State
from unnoise.evaluation.control import control_section
from unnoise.evaluation.distances import two_sample_section
from unnoise.evaluation.encoders import Classifier, Encoder, train_classifier, train_self_supervised
from unnoise.evaluation.fairness import fairness_section
from unnoise.evaluation.likelihood import bits_per_dimension, likelihood_section, tightest
from unnoise.evaluation.maker import Maker, attribute_of
from unnoise.evaluation.memorisation import Losses, memorisation_section
from unnoise.evaluation.pretrained import find_encoder
from unnoise.evaluation.quality import feature_section
from unnoise.evaluation.report import write_report
from unnoise.evaluation.section import Drawing, Section
from unnoise.evaluation.usefulness import usefulness_section
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import PictureOptions
from unnoise.model import DiffusionModel, load
from unnoise.recipes.run import Run
from unnoise.recipes.sources import Opened, PictureSource, Source, source_of
from unnoise.training.files import atomically

FEWEST = 50
"""Real rows below which no figure is worth much."""


@dataclass(frozen=True)
class Options:
    """How an evaluation is done."""

    n: int = 2000
    """Samples to draw from a model; of given samples, the most that are used."""
    seed: int = 0
    """Decides the samples, the subsets, the feature networks."""
    held_out: float = 0.2
    """Share of the real rows that is held out; a run's own share goes before it."""
    feature_seeds: int = 2
    """Feature networks of each kind, trained with different seeds: they give the feature metrics their interval."""
    repeats: int = 1
    """Times that each learner is trained to see what samples are good for (the slowest part); 3 or more give honest intervals."""
    features: tuple[str, ...] = ()
    """Pretrained feature networks beside the trained ones: inception:FILE, dinov2:FOLDER_OR_NAME, clip:FOLDER_OR_NAME."""
    steps: int | None = None
    """Sampler steps; the model's own."""
    sampler: str | None = None
    """The sampler; the model's own."""
    guidance: float | None = None
    """Guidance scale; the model's own."""
    group: str | None = None
    """The attribute whose groups are compared and that classifiers learn; the class, or a table's last column of categories."""
    target: tuple[str, ...] = ()
    """Shares that the groups should have, as group=share; those of the real rows."""
    only: tuple[str, ...] = ()
    """Sections to make, by name; all."""
    batch: int = 250
    """Samples drawn between two writings to disk."""


@dataclass
class Subject:
    """What is evaluated, with all that several sections ask for, made once. maker, model: None for given samples."""

    train: Examples
    held: Examples
    made: Examples
    told: tuple[list[str | None], list[str | None]]
    """What a model may be told of the training and of the held-out rows."""
    options: Options
    out: Path
    maker: Maker | None
    model: DiffusionModel | None
    progress: bool

    @cached_property
    def group(self) -> str:
        """The attribute of the training rows that groups are made of, and that classifiers learn."""
        known = [a.name for a in self.train.attributes()]
        wanted = self.options.group
        if not known:
            raise InputError("the data has no classes and no columns of categories: nothing to tell apart, or to compare by group")
        if wanted is not None and wanted not in known:
            raise InputError(f"there is no attribute {wanted!r} in this data; it has {', '.join(known)}")
        return wanted or known[-1]

    @cached_property
    def classifiers(self) -> list[Classifier]:
        """One a feature seed, of the group. InputError where there is nothing to tell apart."""
        attribute = attribute_of(self.train, self.group)
        assert attribute is not None
        return [
            train_classifier(self.train, attribute, seed, progress=self.progress, folder=self.out / "features")
            for seed in range(self.options.feature_seeds)
        ]

    @cached_property
    def without_labels(self) -> list[Encoder]:
        return [
            train_self_supervised(self.train, seed, progress=self.progress, folder=self.out / "features")
            for seed in range(self.options.feature_seeds)
        ]

    @cached_property
    def bits(self) -> tuple[Tensor, Tensor]:
        """Bits per dimension of as many held-out and training rows, at most a thousand each."""
        if self.model is None:
            raise InputError("the likelihood and the losses need the model, not samples of it")
        n = min(len(self.held), len(self.train), 1000)
        model, seed = self.model, self.options.seed
        method = tightest(model, self.train, self.told[0], seed)
        bits = []
        for rows, told in zip((self.held, self.train), reversed(self.told)):
            some = spread(len(rows), n)
            said = [told[i] for i in some]
            bits.append(bits_per_dimension(model, rows.take(some), said, seed, method=method, progress=self.progress))
        return bits[0], bits[1]


def evaluate(
    subject: str | Path, data: str | Path, out: Path, options: Options = Options(), progress: bool = True
) -> list[Section]:
    """Measure a model folder, a run, or samples (a folder, zip, npz or csv) against `data`; write the report into `out`.

    Samples that were drawn before are found again in out/samples.safetensors, feature networks in out/features.
    Raises InputError for what cannot be measured at all; what a single section lacks is said in its notes.
    """
    unknown = sorted(set(options.only) - set(SECTIONS))
    if unknown:
        raise InputError(f"there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    for name in ("n", "feature_seeds", "repeats", "batch"):
        if getattr(options, name) < 1:
            raise InputError(f"{name} {getattr(options, name)}: must be at least 1")
    if not 0 < options.held_out < 1:
        raise InputError(f"held_out {options.held_out}: a share of the real rows, between 0 and 1")
    subject = Path(subject)
    model = load(subject) if _is_model(subject) else None
    source, share = _source(subject, str(data), model, options)
    opened = source.open(progress=progress)
    facts = {"measured": str(subject), "data": opened.account()}
    rest, held = _split(opened, share or options.held_out, facts, trained=share if model else None)
    out.mkdir(parents=True, exist_ok=True)
    train_rows, held_rows, told = rest.examples(), held.examples(), (rest.told(), held.told())
    maker: ModelMaker | None = None
    if model is not None:
        maker = ModelMaker(model, held, options, progress)
        made = maker.drawn(_prompts(told[0], options), out / "samples.safetensors")
        facts["samples"] = maker.about(len(made))
    else:
        made, note = opened.read_made(subject)
        facts["samples"] = f"{len(made):,} given samples{'; ' + note if note else ''}"
        if len(made) > options.n:
            rows = torch.randperm(len(made), generator=torch.Generator().manual_seed(options.seed))[: options.n]
            made = made.take(sorted(rows.tolist()))
    made.tensor(train_rows, [0])  # refuses what cannot be compared at all
    it = Subject(train_rows, held_rows, made, told, options, out, maker, model, progress)
    sections = [_sheets(it)]
    wanted = [name for name in SECTIONS if not options.only or name in options.only]
    for name in (bar := tqdm(wanted, unit="section", disable=not progress)):
        bar.set_description(name)
        try:
            found = SECTIONS[name](it)
            sections += found if isinstance(found, list) else [found]
        except InputError as e:
            sections.append(Section(name.capitalize(), notes=(f"Not measured: {e}.",)))
    write_report(sections, out, f"Evaluation of {subject.name or subject}", facts)
    return sections


# -- what is measured -------------------------------------------------------------------------------------------------------


def _is_model(path: Path) -> bool:
    return any((path / p).is_file() for p in ("config.json", "model/config.json", "run.json"))


def _source(subject: Path, data: str, model: DiffusionModel | None, options: Options) -> tuple[Source, float]:
    """How the data is to be read so that it suits the model, and the share that the model's training held out."""
    if (subject / "run.json").is_file():
        run, _ = Run.load(subject / "run.json")
        kind = run.data.options.held_out if isinstance(run.data, PictureSource) else run.data.held_out
        if isinstance(source_of(data), type(run.data)):
            return replace(run.data, path=data), kind
    source = source_of(data)
    if model is not None and isinstance(source, PictureSource) and isinstance(model.config.codec, PixelsConfig):
        return replace(source, options=PictureOptions(size=max(model.config.codec.height, model.config.codec.width))), 0.0
    return source, 0.0


def _split(opened: Opened, share: float, facts: dict[str, str], trained: float | None) -> tuple[Opened, Opened]:
    rest, held = opened.split(share)
    n = len(rest.examples()), len(held.examples())
    facts["split"] = f"{n[0]:,} training rows, {n[1]:,} held out"
    if trained is not None and not trained:
        facts["split"] += (
            "; the model was trained without holding any out, so it may have seen these too (train with --data.options.held-out "
            "0.2, or --data.held-out for tables, for an honest comparison)"
        )
    if sum(n) < FEWEST:
        facts["few rows"] = f"{sum(n)} real rows are too few for figures that mean much: {FEWEST} are the least, thousands are good"
    return rest, held


def _prompts(told: Sequence[str | None], options: Options) -> list[str | None]:
    """n prompts, as often as training rows are of their kind."""
    rng = torch.Generator().manual_seed(derive(options.seed, "prompts") % 2**63)
    return [told[i] for i in torch.randint(len(told), (options.n,), generator=rng).tolist()]


@dataclass(frozen=True)
class ModelMaker(Maker):
    """A diffusion model as the evaluation sees it."""

    model: DiffusionModel
    opened: Opened = field(repr=False)
    options: Options
    progress: bool = True

    name: str = "model"

    def make(self, prompts: Sequence[str | None], seed: int, guidance: float | None = None) -> Examples:
        return self.opened.made(self._raw(prompts, [derive(seed, i) for i in range(len(prompts))], guidance), prompts)

    def _raw(self, prompts: Sequence[str | None], seeds: Sequence[int], guidance: float | None) -> dict[str, Tensor]:
        o = self.options
        with tqdm(unit="step", desc=f"sampling {len(prompts)}", leave=False, disable=not self.progress) as bar:

            def watch(done: int, of: int, x: State) -> None:
                bar.total = of * -(-len(prompts) // 64)
                bar.update()

            samples = self.model.sample(
                prompts, sample_seeds=seeds, steps=o.steps, sampler=o.sampler,
                guidance=o.guidance if guidance is None else guidance, watch=watch,
            )  # fmt: skip
        return self.opened.raw(samples)

    def drawn(self, prompts: Sequence[str | None], file: Path) -> Examples:
        """Samples for these prompts, kept in `file` as they are drawn, and gone on with after an interruption."""
        o = self.options
        settings = [self.model.hash(), o.seed, o.steps, o.sampler, o.guidance, o.batch, list(prompts)]
        key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()
        raw = _kept(file, key)
        seeds = [derive(o.seed, i) for i in range(len(prompts))]
        while (have := len(next(iter(raw.values()))) if raw else 0) < len(prompts):
            rows = slice(have, have + o.batch)
            new = self._raw(prompts[rows], seeds[rows], None)
            raw = {k: torch.cat([raw[k], v]) if k in raw else v for k, v in new.items()}
            with atomically(file) as half:
                save_file({k: v.contiguous() for k, v in raw.items()}, half, {"key": key})
        return self.opened.made(raw, prompts)

    def about(self, n: int) -> str:
        usual, o = self.model.config.sampling, self.options
        guidance = usual.guidance if o.guidance is None else o.guidance
        return (
            f"{n:,} of model {self.model.hash()}, seed {o.seed}, {o.sampler or usual.sampler}, {o.steps or usual.steps} steps, "
            f"guidance {guidance:g}, asked for what training rows are"
        )


def _kept(file: Path, key: str) -> dict[str, Tensor]:
    """What was drawn before, if it was drawn in the same way."""
    try:
        with safe_open(file, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()} if (f.metadata() or {}).get("key") == key else {}  # noqa: SIM118
    except (OSError, SafetensorError):
        return {}


# -- the sections -----------------------------------------------------------------------------------------------------------


def _sheets(it: Subject) -> Section:
    """Real rows held out and made ones, side by side."""
    page, told = it.held.look(it.made)
    png = io.BytesIO()
    page.save(png, "PNG")
    return Section(
        "What it looks like", drawings=(Drawing("Real rows held out, and made ones", png.getvalue(), f"{told.capitalize()}."),)
    )


def spread(of: int, n: int) -> list[int]:
    """At most n of so many rows, evenly spread: rows often lie sorted by class."""
    return list(range(of)) if of <= n else [i * of // n for i in range(n)]


def _two_sample(it: Subject) -> Section:
    return two_sample_section(it.train, it.held, it.made, it.options.seed, progress=it.progress)


def _features(it: Subject) -> list[Section]:
    """One section a kind of network: what classifies (where there is something to), what needs no labels, each that was brought."""
    kinds: dict[str, Callable[[], list[Encoder]]] = {
        "Features of classifiers": lambda: [c.encoder() for c in it.classifiers],
        "Features learnt without labels": lambda: it.without_labels,
        **{f"Features of {name}": partial(_pretrained, name) for name in it.options.features},
    }
    sections = []
    for title, encoders in kinds.items():
        try:
            found = encoders()
            sections.append(feature_section(it.train, it.held, it.made, found, it.progress, title, seed=it.options.seed))
        except InputError as e:
            sections.append(Section(title, notes=(f"Not measured: {e}.",)))
    return sections


def _pretrained(name: str) -> list[Encoder]:
    return [find_encoder(name)]


def _own(it: Subject) -> Section:
    measures = it.train.measures(it.held, it.made, it.options.seed)
    return Section(f"Of {it.train.kind} alone", tuple(measures))


def _likelihood(it: Subject) -> Section:
    held, train = it.bits
    return likelihood_section(held, train, "An upper bound, of what the model was told of each row; lower is better.")


def _usefulness(it: Subject) -> Section:
    return usefulness_section(it.train, it.held, it.made, it.group, it.options.seed, it.options.repeats, progress=it.progress)


def _control(it: Subject) -> Section:
    if it.maker is None:
        raise InputError("given samples answer no questions: evaluate the model itself to see how well it does what it is asked")
    if not any(it.told[0]):
        raise InputError("this model is told nothing, so there is nothing to ask it for")
    n = min(it.options.n, 50 * len(it.classifiers[0].attribute.values))
    return control_section(
        it.maker, it.classifiers[0], it.train, it.held, n=n, seed=derive(it.options.seed, "control"), progress=it.progress
    )


def _memorisation(it: Subject) -> Section:
    losses = None
    if it.model is not None:
        held, train = it.bits
        losses = Losses(train, held)
    return memorisation_section(
        it.train, it.held, it.made, it.without_labels[:1], losses, seed=it.options.seed, progress=it.progress
    )


def _fairness(it: Subject) -> Section:
    try:
        classifier = it.classifiers[0]
    except InputError:
        classifier = None
    known = attribute_of(it.made, it.group)
    return fairness_section(
        it.train, it.held, it.made, it.group, shares(it.options.target),
        classifier if known is None or it.maker is not None else None, it.without_labels[0], it.options.seed,
    )  # fmt: skip


def shares(given: Sequence[str]) -> dict[str, float] | None:
    """group=share, ... as numbers. InputError for what is not written so."""
    out = {}
    for text in given:
        group, mark, share = text.rpartition("=")
        try:
            out[group] = float(share)
        except ValueError:
            mark = ""
        if not mark or not 0 <= out[group] < math.inf:
            raise InputError(f"target {text!r}: write group=share, such as women=0.5")
    return out or None


SECTIONS: Mapping[str, Callable[[Subject], Section | list[Section]]] = {
    "distances": _two_sample,
    "features": _features,
    "own": _own,
    "likelihood": _likelihood,
    "usefulness": _usefulness,
    "control": _control,
    "memorisation": _memorisation,
    "fairness": _fairness,
}
"""What a report may hold, by the names that `only` takes."""

"""A model, or a folder of samples, measured against real data: every section of the report, for whatever kind of data it is.

The real rows are split in two, by a hash of each: training rows, from which all feature networks learn, and rows held out, with
which samples are compared. A run that was trained with rows held out has kept back just these.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from unnoise.checkpoints.shipped import shipped_folder
from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.core.measure import FEWEST, Examples
from unnoise.core.random import derive
from unnoise.core.state import State
from unnoise.evaluation.maker import Maker
from unnoise.evaluation.report import write_report
from unnoise.evaluation.section import Section
from unnoise.loading import load
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.data import PictureOptions
from unnoise.modalities.image.embeddings import Embeddings
from unnoise.modalities.image.enlarging import Enlarging
from unnoise.modalities.image.latents import LatentsConfig
from unnoise.modalities.words.emphasis import Emphatic
from unnoise.modalities.words.syntax import escaped
from unnoise.model import DiffusionModel
from unnoise.recipes.runs import load_run
from unnoise.recipes.sections import SECTIONS, Options, Subject, look
from unnoise.recipes.sources import Opened, PictureSource, Source, source_of


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
    if not subject.exists():
        subject = shipped_folder(str(subject)) or subject
    model = load(subject) if _is_model(subject) else None
    _refuse_parts(subject, model)
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
    sections = [look(it)]
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


def _refuse_parts(subject: Path, model: DiffusionModel | None) -> None:
    """InputError for models that make no data by themselves."""
    if model is not None and isinstance(model.codec, Embeddings):
        raise InputError(
            f"{subject}: a prior makes embeddings, no pictures; draw with `unnoise sample {subject} PROMPT --then DECODER "
            "--out samples`, and evaluate those samples"
        )
    if model is not None and isinstance(model.conditioner, Enlarging):
        raise InputError(
            f"{subject}: it enlarges what another model makes; draw with `unnoise sample MODEL --then {subject} --out "
            "samples`, and evaluate those samples"
        )


def _source(subject: Path, data: str, model: DiffusionModel | None, options: Options) -> tuple[Source, float]:
    """How the data is to be read so that it suits the model, and the share that the model's training held out."""
    if (subject / "run.json").is_file():
        run, _ = load_run(subject)
        kind = run.data.options.held_out if isinstance(run.data, PictureSource) else run.data.held_out
        if isinstance(source_of(data), type(run.data)):
            return replace(run.data, path=data), kind
    source = source_of(data)
    codec = model.config.codec if model is not None else None
    if isinstance(source, PictureSource) and isinstance(codec, PixelsConfig | LatentsConfig):
        as_drawn = PictureOptions(alpha=codec.channels == 4)
        if codec.height == codec.width:
            return replace(source, options=replace(as_drawn, size=codec.height)), 0.0
        return replace(source, options=replace(as_drawn, shape=(codec.height, codec.width))), 0.0
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

            literally = isinstance(self.model.conditioner, Emphatic)  # captions are no prompts: their brackets are brackets
            asked = [p if p is None or not literally else escaped(p) for p in prompts]
            samples = self.model.sample(
                asked, sample_seeds=seeds, steps=o.steps, sampler=o.sampler,
                guidance=o.guidance if guidance is None else guidance, watch=watch, captions=True,
            )  # fmt: skip
        return self.opened.raw(samples)

    def drawn(self, prompts: Sequence[str | None], file: Path) -> Examples:
        """Samples for these prompts, kept in `file` as they are drawn, and gone on with after an interruption."""
        o = self.options
        usual = repr(self.model.config.sampling)  # a model's own way to be sampled is no part of its weights
        settings = [self.model.hash(), usual, o.seed, o.steps, o.sampler, o.guidance, o.batch, list(prompts)]
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
            names = f.keys() if (f.metadata() or {}).get("key") == key else []
            return {name: f.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        return {}

"""What an evaluation is asked for, what it has at hand, and its sections, each a function of that."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.measure import Examples
from unnoise.core.random import derive
from unnoise.evaluation.control import control_section
from unnoise.evaluation.distances import two_sample_section
from unnoise.evaluation.encoders import Classifier, Encoder, train_classifier, train_self_supervised
from unnoise.evaluation.fairness import fairness_section
from unnoise.evaluation.likelihood import bits_per_dimension, likelihood_section, tightest
from unnoise.evaluation.maker import Maker, attribute_of
from unnoise.evaluation.memorisation import Losses, memorisation_section
from unnoise.evaluation.pretrained import find_encoder
from unnoise.evaluation.quality import feature_section
from unnoise.evaluation.retrieval import agreement_section, load_retrieval
from unnoise.evaluation.section import Drawing, Section
from unnoise.evaluation.usefulness import usefulness_section
from unnoise.modalities.image.latents import Latents
from unnoise.model import DiffusionModel
from unnoise.recipes.run import spread


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
    retrieval: Path | None = None
    """A network that the recipe retrieval trained: it picks the name of what was made out of a hundred."""
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
        """The attribute of the training rows that groups are made of, and that classifiers learn. InputError for none."""
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
        """Bits per dimension of as many held-out and training rows, at most a thousand each. InputError for samples alone."""
        if self.model is None:
            raise InputError("the likelihood and the losses need the model, not samples of it")
        n = min(len(self.held), len(self.train), 1000)
        model, seed = self.model, self.options.seed
        method = tightest(model, self.train, self.told[0], seed)
        bits = []
        for rows, told in zip((self.held, self.train), reversed(self.told)):
            some = spread(range(len(rows)), n)  # rows often lie sorted by class
            said = [told[i] for i in some]
            bits.append(bits_per_dimension(model, rows.take(some), said, seed, method=method, progress=self.progress))
        return bits[0], bits[1]


def look(it: Subject) -> Section:
    """Real rows held out and made ones, side by side."""
    page, told = it.held.look(it.made)
    png = io.BytesIO()
    page.save(png, "PNG")
    return Section(
        "What it looks like", drawings=(Drawing("Real rows held out, and made ones", png.getvalue(), f"{told.capitalize()}."),)
    )


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
    about = "An upper bound, of what the model was told of each row; lower is better."
    if it.model is not None and isinstance(it.model.codec, Latents):
        about += " Of the density of its codec's states, a number of them each: it compares models on this codec, and no others."
    return likelihood_section(held, train, about)


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


def _agreement(it: Subject) -> Section | list[Section]:
    if it.options.retrieval is None:
        if it.options.only:
            raise InputError("a retrieval network is needed: --retrieval FOLDER, of `unnoise train DATA --recipe retrieval`")
        return []
    if it.maker is None:
        raise InputError("given samples answer no questions: evaluate the model itself to see how well it does what it is asked")
    names = [t for told in it.told for t in told if t]
    return agreement_section(
        it.maker, load_retrieval(it.options.retrieval), it.held, it.told[1], names, min(it.options.n, 1000),
        derive(it.options.seed, "agreement"), it.progress,
    )  # fmt: skip


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
    "agreement": _agreement,
    "memorisation": _memorisation,
    "fairness": _fairness,
}
"""What a report may hold, by the names that `only` takes."""

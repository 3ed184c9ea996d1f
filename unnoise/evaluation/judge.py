"""One judge for all models that are compared: the same real rows, the same features, the same classifier, the same numbers of rows.

Rows held out are parted in two: the reference that everything is compared with, and the real rows whose figures stand beside the
models', which is what a perfect model would get. Features are those of a classifier trained on the training rows where there are
classes, else of a self-supervised network; a table's own vectors need no network.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval
from unnoise.core.measure import Attribute, Examples, Measure
from unnoise.evaluation.encoders import Classifier, Encoder, train_classifier, train_self_supervised
from unnoise.evaluation.frechet import frechet
from unnoise.evaluation.kernel import kid
from unnoise.evaluation.maker import attribute_of, counts_of, prompts_like
from unnoise.evaluation.manifold import density_coverage, precision_recall
from unnoise.modalities.image.measure import Pictures
from unnoise.modalities.image.stacked import are_stacked, channel, divergence_from_uniform, expected_modes, single_digits


@dataclass(frozen=True)
class Judge:
    """attribute: the name of what rows are told and judged by; empty: nothing. n: rows of every set that is compared."""

    train: Examples = field(repr=False)
    held: Examples = field(repr=False)
    n: int
    attribute: str
    encoder: Encoder | None
    classifier: Classifier | None
    digits: Classifier | None
    """What reads a channel of stacked digits."""

    @staticmethod
    def of(train: Examples, held: Examples, samples: int, condition: str | None, folder: Path) -> "Judge":
        """Train what judges. condition: the column of a table that rows are told. folder: where trained networks are kept."""
        known = attribute_of(train, condition or "class")
        pictures = isinstance(train, Pictures)
        n = min(samples, len(held) // 2)
        stacked = isinstance(train, Pictures) and are_stacked(train)
        classifier, encoder, digits = None, None, None
        if isinstance(train, Pictures) and stacked:
            digits = _digit_reader(folder)
            encoder = train_self_supervised(train, seed=0, folder=folder)
        elif known is not None and pictures and int((counts_of(known) > 0).sum()) > 1:
            encoder = train_classifier(train, known, seed=0, folder=folder).encoder()
            classifier = train_classifier(train, known, seed=1, folder=folder)
        elif pictures:
            encoder = train_self_supervised(train, seed=0, folder=folder)
        name = known.name if known is not None and int((counts_of(known) > 0).sum()) > 1 else ""
        return Judge(train, held, n, name, encoder, classifier, digits)

    @property
    def about(self) -> str:
        features = "the table's own vectors" if self.encoder is None else self.encoder.name
        return f"{self.n:,} rows each; features: {features}. Real: other rows held out, as many."

    @property
    def about_modes(self) -> str:
        if self.digits is not None:
            best = expected_modes(self.n)
            return f"Modes: what a classifier reads in the channels of {self.n:,} rows; perfect ones show {best:.0f} of 1,000."
        return "Modes: the classes that a classifier sees in at least one row." if self.classifier is not None else ""

    @property
    def about_control(self) -> str:
        if self.classifier is not None:
            return "Judged by a classifier that no generator has seen; real: its accuracy on rows held out."
        return f"Read off the rows: whether {self.attribute!r} is what was asked for."

    def prompts(self, seed: int) -> list[str | None]:
        """n prompts with the shares of the training rows."""
        return prompts_like(self.train, self.n, seed, self.attribute) if self.attribute else [None] * self.n

    @cached_property
    def _reference(self) -> Examples:
        return self.held.take(range(0, 2 * self.n, 2))

    @cached_property
    def _features(self) -> Tensor:
        return self.features(self._reference)

    @cached_property
    def _other(self) -> Examples:
        return self.held.take(range(1, 2 * self.n, 2))

    @cached_property
    def own(self) -> tuple[Measure, ...]:
        """The measures of this kind of data alone, between real rows: their names, and what is good."""
        return tuple(self.train.measures(self._reference, self._other))

    @cached_property
    def real(self) -> dict[str, float]:
        """The scores of real rows, each asked to be what it is."""
        other = self._other
        known = attribute_of(other, self.attribute) if self.attribute else None
        asked = [None] * self.n if known is None else [known.values[c] if c >= 0 else None for c in known.codes.tolist()]
        return self._scores(other, asked, self.own)

    def features(self, rows: Examples) -> Tensor:
        if self.encoder is None:
            return rows.tensor(self.train).flatten(1)
        return self.encoder.features(rows, self.train)

    def scores(self, made: Examples, asked: Sequence[str | None]) -> dict[str, float]:
        """Every figure by its key; the kind's own by their names. What cannot be found is left out."""
        return self._scores(made, asked, self.train.measures(self._reference, made))

    def _scores(self, made: Examples, asked: Sequence[str | None], own: Sequence[Measure]) -> dict[str, float]:
        x = self.features(made)
        if not bool(x.isfinite().all()):
            raise InputError("the features of what was made are not finite")
        y = self._features
        out = {
            **_found(("frechet",), lambda: (frechet(y, x),)),
            **_found(("kid",), lambda: (kid(y, x),)),
            **_found(("precision", "recall"), lambda: precision_recall(y, x)),
            **_found(("density", "coverage"), lambda: density_coverage(y, x)),
            **self._modes(made),
            **self._control(made, asked),
            **{m.name: m.value for m in own},
        }
        return {k: float(v) for k, v in out.items() if math.isfinite(v)}

    def _modes(self, made: Examples) -> dict[str, float]:
        if self.digits is not None and isinstance(made, Pictures):
            grey = [channel(made, c) for c in range(3)]
            read = [self.digits.probabilities(g, g).argmax(1) for g in grey]
            counts = torch.bincount(100 * read[0] + 10 * read[1] + read[2], minlength=1000)
        elif self.classifier is not None:
            seen = self.classifier.probabilities(made, self.train).argmax(1)
            counts = torch.bincount(seen, minlength=len(self.classifier.attribute.values))
        else:
            return {}
        found = {"modes": float((counts > 0).sum())}
        return {**found, "mode_kl": divergence_from_uniform(counts)} if self.digits is not None else found

    def _control(self, made: Examples, asked: Sequence[str | None]) -> dict[str, float]:
        """The share of rows that show what they were asked for; a table's say it themselves."""
        if not self.attribute or not any(asked):
            return {}
        if self.classifier is not None:
            values, seen = self.classifier.attribute.values, self.classifier.probabilities(made, self.train).argmax(1)
        else:
            known = attribute_of(made, self.attribute)
            if known is None or self.digits is not None:
                return {}
            values, seen = known.values, known.codes
        right = [c >= 0 and values[c] == a for c, a in zip(seen.tolist(), asked) if a is not None]
        return {"accuracy": sum(right) / len(right)}


def _found(keys: Sequence[str], figures: Callable[[], Sequence[Interval]]) -> dict[str, float]:
    """What too few rows do not allow is left out."""
    try:
        return {key: figure.value for key, figure in zip(keys, figures())}
    except InputError:
        return {}


def _digit_reader(folder: Path) -> Classifier:
    """Trained on the single digits that stacked ones are made of."""
    pixels, shown = single_digits()
    digit = Attribute("digit", tuple("0123456789"), torch.from_numpy(shown))
    return train_classifier(Pictures.of(pixels[..., None], (digit,)), digit, seed=0, folder=folder)

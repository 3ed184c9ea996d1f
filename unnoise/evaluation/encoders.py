"""What rows are compared by: features of frozen networks, those trained on the real rows themselves first of all."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from unnoise.core.measure import Attribute, Examples


class Encoder(ABC):
    """A frozen network that turns rows into vectors."""

    name: str
    """What it was trained on and how, its seed and its hash: as a report names it."""
    hash: str
    """16 hex digits of the sha256 of its weights and their names."""

    @abstractmethod
    def features(self, x: Examples, reference: Examples, progress: bool = False) -> Tensor:
        """Of every row of x, in order: (N, F) float32, computed in blocks. `reference`: the real training rows.

        Raises InputError if the rows are not of the kind or the size that it takes.
        """


@dataclass(frozen=True)
class Classifier:
    """What says which value of an attribute a row has; frozen.

    attribute: its name and its values, in the order of the probabilities; it holds no codes.
    """

    name: str
    hash: str
    attribute: Attribute
    network: nn.Module = field(repr=False)

    def probabilities(self, x: Examples, reference: Examples, progress: bool = False) -> Tensor:
        """(N, K) float32, rows sum to 1"""
        raise NotImplementedError

    def accuracy(self, x: Examples, reference: Examples) -> float:
        """The share of the rows of x, of those whose value is known, for which its value is the likeliest."""
        raise NotImplementedError

    def balanced_accuracy(self, x: Examples, reference: Examples) -> float:
        """The mean over the values of that share among the rows that have it: guessing gets 1 / values."""
        raise NotImplementedError

    def encoder(self) -> Encoder:
        """Its last hidden layer."""
        raise NotImplementedError


def fingerprint(examples: Examples) -> str:
    """64 hex digits: the sha256 of the kind, the shape and every value of the rows as a network sees them, read in blocks."""
    raise NotImplementedError


def train_classifier(
    real: Examples,
    attribute: Attribute,
    seed: int = 0,
    steps: int | None = None,
    progress: bool = False,
    folder: Path | None = None,
) -> Classifier:
    """A network that tells the values of `attribute` apart, trained on `real`; rows of unknown value (code -1) are left out.

    steps: of the optimiser; None: chosen from the number of rows. folder: where trained ones are kept and found again.
    """
    raise NotImplementedError


def train_self_supervised(
    real: Examples, seed: int = 0, steps: int | None = None, progress: bool = False, folder: Path | None = None
) -> Encoder:
    """A network trained on `real` without labels."""
    raise NotImplementedError

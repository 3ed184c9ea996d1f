"""What is measured, and what comes of it: rows of one kind of data, whether read or made, and figures with their doubt.

Each kind of data has one class under `Examples`, in `modalities/KIND/measure.py`; the evaluation knows nothing else of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from PIL import Image
from torch import Tensor

FEWEST = 50
"""Real rows below which no figure is worth much, and nothing is learnt from them."""


@dataclass(frozen=True)
class Measure:
    """One figure.

    low, high: its 95 % interval. floor: the same figure between real and held-out real data: what a perfect model would get.
    p_value: of the hypothesis that real and made rows are from one distribution. best: what is good, "low", "high" or a number.
    note: how it was found, or what is to be thought of it, in a few words.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    p_value: float | None = None
    best: str | float = "low"
    note: str = ""


@dataclass(frozen=True)
class Attribute:
    """What each row is one of: its class, or a column of categories. codes: (N,) int64 into `values`, -1 where it is not known."""

    name: str
    values: tuple[str, ...]
    codes: Tensor


class Examples(ABC):
    """N rows of one kind of data. Frozen; `reference` is always the real training rows, whose scale is everybody's."""

    kind: str
    """"pictures", "table", ...: how a report calls them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, rows: Sequence[int]) -> Self:
        """Some of the rows, in this order."""

    @abstractmethod
    def tensor(self, reference: "Examples", rows: Sequence[int] | None = None) -> Tensor:
        """These rows (all by default) as a network wants them, (n, ...) float32, about -1 ... 1 or of unit variance over
        `reference`. Flattened, they are the vectors whose Euclidean distance means something.

        Raises InputError if the two are not of one size or have not the same columns.
        """

    @abstractmethod
    def attributes(self) -> tuple[Attribute, ...]:
        """What is known of the rows: none, one (the class) or several (a table's columns of categories)."""

    @abstractmethod
    def draw(self, rows: Sequence[int]) -> list[Image.Image]:
        """One small picture a row, as this kind of data is looked at."""

    @abstractmethod
    def look(self, made: "Examples") -> tuple[Image.Image, str]:
        """A page on which real rows (self) and made ones are looked at side by side, as suits the kind, and which are which."""

    @abstractmethod
    def measures(self, held: "Examples", made: "Examples", seed: int = 0) -> list[Measure]:
        """The measures of this kind alone; self are the real training rows, `held` the real ones held out, `made` the model's."""

"""Columns and tables: what a cell of text means, and how it is written again.

A column is one of five frozen values. Numeric and Categorical columns are modelled; Constant, RowNumber and LeftOut are not, and
are written again so that the header stays the same. A Table is the modelled columns as two arrays, numbers and category codes.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unnoise.core.errors import InputError

MISSING_WORDS = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "<na>", "#n/a"})
"""What a missing value may look like, in any case."""

_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


def is_missing(cell: str) -> bool:
    return cell.lower() in MISSING_WORDS


def is_number(cell: str, comma: bool = False) -> bool:
    """Whether the cell is a plain decimal number. Not so 007, which would lose its zeros, nor 1_000, nor inf.

    comma: the decimal mark is a comma, not a point.
    """
    return ("." if comma else ",") not in cell and _NUMBER.fullmatch(cell) is not None


def half_width(decimals: int, step: int) -> float:
    """Half the width of the interval that is rounded to one lattice value.

    Just less than half a step, so that the intervals of neighbours never touch.
    """
    return 0.4995 * step / 10.0**decimals


class Column(ABC):
    """A frozen dataclass with the column's name as the header has it."""

    name: str


@dataclass(frozen=True)
class Numeric(Column):
    """Numbers. Their distribution function is piecewise linear through (values[i], levels[i]); two equal values make a jump.

    Values lie on the lattice (origin + k step) / 10^decimals for integers k, and have at most `digits` digits after leading zeros;
    step = 0: there is no lattice.
    Written with at most `decimals` and at least `fewest` digits after the decimal mark, a comma if `comma`.
    `missing`: how a missing value is written; None: none was missing.
    """

    name: str
    values: tuple[float, ...]
    levels: tuple[float, ...]
    decimals: int
    origin: int
    step: int
    digits: int = 17
    fewest: int = 0
    comma: bool = False
    missing: str | None = None

    @property
    def half(self) -> float:
        return half_width(self.decimals, self.step)

    def parse(self, cells: Sequence[str]) -> np.ndarray:
        """(B,) float64, NaN where a value is missing."""
        out = np.empty(len(cells))
        for i, cell in enumerate(cells):
            if is_missing(cell):
                if self.missing is None:
                    raise InputError(f"column {self.name!r}: a value is missing, and none was in the data that the model knows")
                out[i] = np.nan
            elif is_number(cell, self.comma):
                out[i] = float(cell.replace(",", "."))
            else:
                raise InputError(f"column {self.name!r}: {cell!r} is not a number")
        return out

    def snap(self, x: Tensor) -> Tensor:
        """The nearest value of the lattice inside the range: (B,) float64; equal to `float` of what `write` writes."""
        x = x.clamp(self.values[0], self.values[-1])
        if self.step == 0:
            return x
        scale = 10.0**self.decimals
        units = self.origin + self.step * ((x * scale - self.origin) / self.step).round()
        excess = (units.abs().clamp(min=1).log10().floor() + 1 - self.digits).clamp(min=0)
        return (
            (units / 10**excess).round() * 10**excess / scale
        )  # integers up to the division: correctly rounded, as float(text) is

    def write(self, values: np.ndarray) -> list[str]:
        return [(self.missing or "") if np.isnan(v) else self._number(float(v)) for v in values]

    def _number(self, v: float) -> str:
        text = f"{v:.{self.decimals}f}" if self.step else np.format_float_positional(v, trim="-")
        whole, _, digits = text.partition(".")
        digits = digits[: self.fewest] + digits[self.fewest :].rstrip("0")
        text = f"{whole}.{digits}" if digits else whole
        text = text.removeprefix("-") if float(text) == 0 else text
        return text.replace(".", ",") if self.comma else text


@dataclass(frozen=True)
class Categorical(Column):
    """One of few texts; where values were missing, that is one category more, the last."""

    name: str
    categories: tuple[str, ...]
    missing: str | None = None

    @property
    def size(self) -> int:
        return len(self.categories) + (self.missing is not None)

    def parse(self, cells: Sequence[str]) -> np.ndarray:
        """(B,) int64 in 0 ... size - 1."""
        code = {c: i for i, c in enumerate(self.categories)}
        out = np.empty(len(cells), dtype=np.int64)
        for i, cell in enumerate(cells):
            if is_missing(cell) and self.missing is not None:
                out[i] = len(self.categories)
            elif cell in code:
                out[i] = code[cell]
            else:
                known = ", ".join(self.categories[:5]) + (", ..." if len(self.categories) > 5 else "")
                raise InputError(f"column {self.name!r}: {cell!r} is not one of its {len(code)} values ({known})")
        return out

    def write(self, codes: np.ndarray) -> list[str]:
        texts = [*self.categories, *([] if self.missing is None else [self.missing])]
        return [texts[c] for c in codes]


class Unmodelled(Column, ABC):
    """A column that the model does not see."""

    @abstractmethod
    def fill(self, first: int, n: int) -> list[str]:
        """What is written into rows first ... first+n-1."""


@dataclass(frozen=True)
class Constant(Unmodelled):
    """The same text in every row; an all-missing column is one."""

    name: str
    text: str

    def fill(self, first: int, n: int) -> list[str]:
        return [self.text] * n


@dataclass(frozen=True)
class RowNumber(Unmodelled):
    """start, start + 1, ...: counted afresh."""

    name: str
    start: int

    def fill(self, first: int, n: int) -> list[str]:
        return [str(self.start + first + i) for i in range(n)]


@dataclass(frozen=True)
class LeftOut(Unmodelled):
    """Names, identifiers, free text: to copy them would give real people's away, so they are left empty."""

    name: str

    def fill(self, first: int, n: int) -> list[str]:
        return [""] * n


@dataclass(frozen=True)
class Table:
    """Rows of a table. numeric: (B, Dn) float64, NaN = missing; categorical: (B, Dc) int64 codes; both in the columns' order."""

    columns: tuple[Column, ...]
    numeric: Tensor
    categorical: Tensor

    @staticmethod
    def parse(columns: tuple[Column, ...], rows: Sequence[Sequence[str]]) -> "Table":
        """From rows of text, one cell a column. Raises InputError for a cell that its column cannot hold."""
        for row in rows:
            if len(row) != len(columns):
                raise InputError(f"a row has {len(row)} cells; the table has {len(columns)} columns")
        cells = [[row[j].strip() for row in rows] for j in range(len(columns))]
        numeric = [c.parse(v) for c, v in zip(columns, cells) if isinstance(c, Numeric)]
        categorical = [c.parse(v) for c, v in zip(columns, cells) if isinstance(c, Categorical)]
        n = len(rows)
        return Table(
            columns,
            torch.from_numpy(np.stack(numeric, 1) if numeric else np.empty((n, 0))),
            torch.from_numpy(np.stack(categorical, 1) if categorical else np.empty((n, 0), dtype=np.int64)),
        )

    def __len__(self) -> int:
        return self.numeric.shape[0]

    def __getitem__(self, rows: slice | Tensor) -> "Table":
        return Table(self.columns, self.numeric[rows], self.categorical[rows])

    def of(self, column: Column) -> Tensor:
        """The values (B,) of a Numeric column, or the codes (B,) of a Categorical one."""
        if isinstance(column, Numeric):
            return self.numeric[:, [c.name for c in self.columns if isinstance(c, Numeric)].index(column.name)]
        if isinstance(column, Categorical):
            return self.categorical[:, [c.name for c in self.columns if isinstance(c, Categorical)].index(column.name)]
        raise InputError(f"column {column.name!r} is not modelled: it is {type(column).__name__}")

    def rows(self, first: int = 0) -> list[tuple[str, ...]]:
        """The rows as text. `first` is the number of rows written before these (row numbers go on from there)."""
        texts = []
        for c in self.columns:
            if isinstance(c, Numeric | Categorical):
                texts.append(c.write(self.of(c).cpu().numpy()))
            elif isinstance(c, Unmodelled):
                texts.append(c.fill(first, len(self)))
        return list(zip(*texts))


def modelled(*tables: Table) -> list[Numeric | Categorical]:
    """The modelled columns that the tables have in common, which must be all of them, in one order.

    Numbers may have other ranges and missing ones other marks; categories must be the same, for their codes to mean the same.
    Raises InputError naming the first column that differs.
    """
    first, *others = ([c for c in t.columns if isinstance(c, Numeric | Categorical)] for t in tables)
    for other in others:
        if [c.name for c in first] != [c.name for c in other]:
            odd = sorted({c.name for c in first} ^ {c.name for c in other})
            what = f"only one has {odd[0]!r}" if odd else "their order differs"
            raise InputError(f"two tables are compared that do not have the same columns: {what}")
        for a, b in zip(first, other):
            if isinstance(a, Numeric) != isinstance(b, Numeric):
                raise InputError(
                    f"two tables are compared that do not have the same columns: {a.name!r} has numbers in one and categories in "
                    "the other"
                )
            if isinstance(a, Categorical) and isinstance(b, Categorical) and a.categories != b.categories:
                raise InputError(f"two tables are compared whose column {a.name!r} has not the same categories")
    return first

"""A table as training data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unnoise.core.codec import Conditioner, Unconditional
from unnoise.core.errors import InputError
from unnoise.core.random import Streams, place_of
from unnoise.core.state import State
from unnoise.modalities.table.codec import TableCodec, TableCodecConfig
from unnoise.modalities.table.columns import Categorical, Constant, LeftOut, Numeric, RowNumber, Table
from unnoise.modalities.table.infer import fit_distribution


@dataclass(frozen=True)
class TableData:
    """`name`: the file, for messages. `config`: how its columns are encoded. `table`: its rows."""

    name: str
    config: TableCodecConfig
    table: Table

    def __len__(self) -> int:
        return len(self.table)

    def account(self) -> str:
        """What was found in the file, and what is done with it, in one paragraph."""
        columns = self.config.columns
        mark = {"\t": "tabs"}.get(self.config.delimiter, f"'{self.config.delimiter}'")
        parts = [f"{self.name}: a table of {len(self)} rows and {len(columns)} columns, separated by {mark}"]
        if not self.config.header:
            parts.append("it has no header, so its columns are called by their numbers, and none is written")
        numeric, categorical = self.config.numeric, self.config.categorical
        if numeric:
            parts.append(f"{_count(numeric)} of numbers{_some([c.name for c in numeric])}")
        if categorical:
            parts.append(f"{_count(categorical)} of categories{_some([f'{c.name}: {c.size} values' for c in categorical])}")
        for c in columns:
            if isinstance(c, Constant):
                what = f"always {c.text!r}" if c.text else "always empty"
                parts.append(f"column {c.name!r} is {what} and is written so again")
            elif isinstance(c, RowNumber):
                parts.append(f"column {c.name!r} counts the rows and is counted afresh")
            elif isinstance(c, LeftOut):
                parts.append(
                    f"column {c.name!r} has too many different texts to learn from (names, identifiers, dates?): it is left out of "
                    "the model and written empty"
                )
        modelled: list[Numeric | Categorical] = [*numeric, *categorical]
        gaps = {c.name: self.missing(c) for c in modelled if c.missing is not None}
        if gaps:
            where = f"{_count(list(gaps))}{_some(list(gaps))}"
            parts.append(f"{sum(gaps.values())} values are missing, in {where}; they are learnt as missing")
        return "; ".join(parts) + "."

    def missing(self, column: Numeric | Categorical) -> int:
        """How many values of the column are missing."""
        values = self.table.of(column)
        gaps = values.isnan() if isinstance(column, Numeric) else values == len(column.categories)
        return int(gaps.sum()) if column.missing is not None else 0

    def split(self, share: float, seed: int = 0) -> tuple["TableData", "TableData"]:
        """(the rest, about `share` of the rows). By a hash of each row's values, so rows that are added or moved move no other.

        Equal rows are told apart by their count, each by a draw of its own: both sides have their share of them, and come from
        one distribution. What a model knows of a column's distribution is fitted anew, to the rest alone; both sides have these
        columns. Raises InputError for a share that leaves one side empty.
        """
        seen: Counter[str] = Counter()
        held = []
        for numbers, codes in zip(self.table.numeric.tolist(), self.table.categorical.tolist()):
            texts = [c.categories[k] if k < len(c.categories) else None for c, k in zip(self.config.categorical, codes)]
            content = repr((numbers, texts))
            held.append(place_of(f"{seed}/{seen[content]}/{content}") < share)
            seen[content] += 1
        which = torch.tensor(held, dtype=torch.bool)
        if not 0 < int(which.sum()) < len(self):
            raise InputError(
                f"{self.name}: holding out {share:g} of {len(self):,} rows leaves one side empty; hold out another share, or none"
            )
        rest = self.table[~which]
        columns = tuple(_refitted(c, rest.of(c)) if isinstance(c, Numeric) else c for c in self.config.columns)
        config = replace(self.config, columns=columns)
        parts = [replace(self, config=config, table=replace(self.table[rows], columns=columns)) for rows in (~which, which)]
        return parts[0], parts[1]

    def unconditional(self) -> "TableSet":
        return TableSet(self, TableCodec(self.config), Unconditional(), [None] * len(self), 1.0)

    def told(self, column: str, conditioner: Conditioner, drop: float = 0.1) -> "TableSet":
        """Rows told the value of one column of categories, and with probability `drop` told nothing, so that guidance works."""
        return TableSet(self, TableCodec(self.config), conditioner, self.prompts(column), drop)

    def prompts(self, column: str) -> list[str | None]:
        """The values of a column of categories, as prompts. Raises InputError for another column."""
        named = {c.name: c for c in self.config.categorical}
        if column not in named:
            known = ", ".join(named) or "it has none"
            raise InputError(f"{self.name}: rows cannot be conditioned on {column!r}; choose a column of categories: {known}")
        c = named[column]
        return list(c.write(self.table.of(c).numpy()))


@dataclass(frozen=True)
class TableSet:
    """Batches of a table for training: what each row is told is `told[row]`."""

    data: TableData
    codec: TableCodec
    conditioner: Conditioner
    told: Sequence[str | None]
    drop: float

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, rows: Sequence[int], rng: Streams) -> dict[str, State]:
        """{"x": the encoded rows, "cond": their prepared prompts}; rng has one stream a row."""
        table = self.data.table[torch.as_tensor(rows)]
        within: Tensor = rng.uniform("within", table.numeric.shape[1:], dtype=torch.float64)
        dropped = rng.uniform("drop") < self.drop
        told = [None if d else self.told[r] for r, d in zip(rows, dropped.tolist())]
        return {"x": self.codec.encode(table, within), "cond": self.conditioner.prepare(told)}


def _refitted(column: Numeric, values: Tensor) -> Numeric:
    """The column with its distribution function fitted to these values alone."""
    present = values[~values.isnan()].numpy()
    if len(present) == 0:
        return column
    knots, levels = fit_distribution(present, column.half)
    return replace(column, values=knots, levels=levels)


def _count(columns: Sequence[object]) -> str:
    return f"{len(columns)} column{'s' if len(columns) > 1 else ''}"


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"

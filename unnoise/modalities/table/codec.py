"""The codec of tables: rows <-> {"numeric": (B, Dn) float32 of order 1, "categorical": (B, Dc) int64}.

A number x becomes z = Phi^-1(u), u uniform in [F(x - h), F(x + h)]: F is the column's distribution function, h half its lattice
step, so x stands for the interval that is rounded to it (randomised probability integral transform: Smith 1985, J. Forecasting 4;
Brockwell 2007, Stat. Prob. Lett. 77). z is standard normal whatever the column, with integers, repeated values, gaps; the way back,
F^-1(Phi(z)) rounded to the lattice, is exact as far as float32 tells neighbours apart (about 10^6 steps over the bulk of the
data). A missing number is z = 0 and a binary category more, "is missing".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import EDM, Categories, PerField, Preconditioner
from unnoise.core.processes import Gaussian, Masked, Process, Product
from unnoise.core.processes.gaussian import tensor
from unnoise.core.schedules import RectifiedFlow, Schedule
from unnoise.core.state import Shape, State
from unnoise.modalities.table.columns import Categorical, Column, Numeric, Table
from unnoise.modalities.table.show import write_csv

_SCHEDULE = RectifiedFlow()
_DEEPEST = 1e-9  # z stays within +-6


@dataclass(frozen=True)
class TableCodecConfig:
    """`columns` in the file's order. `delimiter` and `header`: how the file was, and is to be, written."""

    columns: tuple[Column, ...]
    delimiter: str = ","
    header: bool = True

    def __post_init__(self) -> None:
        if not self.numeric and not self.categorical:
            raise InputError("the table has no column with two different values: there is nothing to learn")

    @property
    def numeric(self) -> tuple[Numeric, ...]:
        return tuple(c for c in self.columns if isinstance(c, Numeric))

    @property
    def categorical(self) -> tuple[Categorical, ...]:
        return tuple(c for c in self.columns if isinstance(c, Categorical))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Categories of each column of the state's "categorical": the categorical columns, then "is missing" of numeric ones."""
        return tuple(c.size for c in self.categorical) + tuple(2 for c in self.numeric if c.missing is not None)

    def build(self) -> "TableCodec":
        return TableCodec(self)

    def process(self, schedule: Schedule = _SCHEDULE) -> Process:
        """The product of a Gaussian process for numbers and a masked one for categories, all at one time t."""
        fields: dict[str, Process] = {}
        if self.numeric:
            fields["numeric"] = Gaussian(schedule)
        if self.sizes:
            fields["categorical"] = Masked(self.sizes)
        return Product(fields)

    def preconditioner(self) -> Preconditioner:
        """For that process; numbers have unit variance."""
        fields: dict[str, Preconditioner] = {}
        if self.numeric:
            fields["numeric"] = EDM(data_std=1.0)
        if self.sizes:
            fields["categorical"] = Categories()
        return PerField(fields)

    def network_fields(self) -> Mapping[str, tuple[int, int, int]]:
        """What a table network needs to know: field -> (columns, input symbols or 0 for numbers, output categories or 0)."""
        fields: dict[str, tuple[int, int, int]] = {}
        if self.numeric:
            fields["numeric"] = (len(self.numeric), 0, 0)
        if self.sizes:
            fields["categorical"] = (len(self.sizes), max(self.sizes) + 1, max(self.sizes))
        return fields


class TableCodec(Codec):
    """Has no weights; works on the CPU in float64."""

    def __init__(self, config: TableCodecConfig) -> None:
        super().__init__()
        self.config = config
        numeric = config.numeric
        self.gappy = torch.tensor([c.missing is not None for c in numeric], dtype=torch.bool)  # (Dn,)
        self.reach = torch.tensor([c.half for c in numeric], dtype=torch.float64)  # (Dn,)
        knots = 1 + max((len(c.values) for c in numeric), default=0)  # at least one more than any column has: flat beyond the end
        self.values = _rows([(c.values, c.values[-1] + 1) for c in numeric], knots)  # (Dn, knots)
        self.levels = _rows([(c.levels, c.levels[-1]) for c in numeric], knots)  # (Dn, knots)

    def shape(self) -> Shape:
        shapes = {"numeric": len(self.config.numeric), "categorical": len(self.config.sizes)}
        return {k: (d,) for k, d in shapes.items() if d > 0}

    def encode(self, data: Table, within: Tensor | None = None) -> State:
        """within: (B, Dn) uniform draws in [0, 1), where in its interval each number is put; without, in the middle."""
        state: dict[str, Tensor] = {}
        if self.config.numeric:
            x = data.numeric.double()
            missing = x.isnan()
            x = torch.where(missing, self.values[:, 0], x)
            lo = _interpolate(x - self.reach, self.values, self.levels)
            hi = _interpolate(x + self.reach, self.values, self.levels, after=True)
            u = lo + (hi - lo) * (0.5 if within is None else within.double())
            z = torch.special.ndtri(u.clamp(_DEEPEST, 1 - _DEEPEST))
            state["numeric"] = z.masked_fill(missing, 0).float()
        if self.config.sizes:
            gaps = data.numeric.isnan()[:, self.gappy].long()
            state["categorical"] = torch.cat([data.categorical, gaps], 1)
        return state

    def decode(self, state: State) -> Table:
        """Raises InputError for a state that is not one of tables, or not finite."""
        if isinstance(state, Tensor):
            raise InputError(f"a table's state is a mapping of {sorted(self.shape())}; this is one tensor")
        n = len(next(iter(state.values())))
        x = torch.empty((n, 0), dtype=torch.float64)
        codes = torch.empty((n, 0), dtype=torch.int64)
        if self.config.sizes:
            codes = tensor(state["categorical"]).cpu()
        plain, gaps = codes[:, : len(self.config.categorical)], codes[:, len(self.config.categorical) :]
        if self.config.numeric:
            z = tensor(state["numeric"]).cpu().double()
            if not bool(z.isfinite().all()):
                raise InputError(
                    "the samples hold values that are not finite numbers: the model has diverged; sample another checkpoint"
                )
            u = torch.special.ndtr(z)
            x = _interpolate(u, self.levels, self.values)
            x = torch.stack([c.snap(x[:, j]) for j, c in enumerate(self.config.numeric)], 1)
            missing = torch.zeros_like(x, dtype=torch.bool)
            missing[:, self.gappy] = gaps == 1
            x = x.masked_fill(missing, torch.nan)
        return Table(self.config.columns, x, plain)

    def write(self, data: Table, out: Path, meta: Sequence[Mapping[str, Any]]) -> list[Path]:
        """samples.csv, and samples.csv.json with what the rows were made from."""
        return write_csv(out / "samples.csv", data, meta, self.config.delimiter, self.config.header)


def _rows(rows: list[tuple[tuple[float, ...], float]], width: int) -> Tensor:
    """(rows, width) float64, every row filled up with its own value."""
    return torch.tensor([(*row, *[fill] * (width - len(row))) for row, fill in rows], dtype=torch.float64).reshape(-1, width)


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor, after: bool = False) -> Tensor:
    """Column by column the piecewise linear function through the knots (xs, ys), both (D, K), flat outside: (B, D) -> (B, D).

    Where it jumps (two equal xs), the value before the jump, or after it.
    """
    x = x.T.contiguous()  # (D, B)
    i = torch.searchsorted(xs, x, right=after).clamp(1, xs.shape[1] - 1)
    x0, x1, y0, y1 = xs.gather(1, i - 1), xs.gather(1, i), ys.gather(1, i - 1), ys.gather(1, i)
    w = ((x - x0) / (x1 - x0).clamp(min=torch.finfo(x.dtype).tiny)).clamp(0, 1)
    return (y0 + w * (y1 - y0)).T

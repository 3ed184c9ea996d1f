"""What kind of column cells of text make: numbers, categories, or nothing to learn.

The distribution function of numbers is fitted here: a value that is often repeated keeps its own steep piece, as wide as the
interval that is rounded to it; between such pieces it is linear through the others' mid-ranks, thinned to evenly spaced quantiles.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from unnoise.core.errors import InputError
from unnoise.modalities.table.columns import (
    Categorical,
    Column,
    Constant,
    LeftOut,
    Numeric,
    RowNumber,
    half_width,
    is_missing,
    is_number,
)

MOST_CATEGORIES = 256
"""A text column with more different values, or with fewer than two rows to a value, is left out."""

MOST_CODES = 10
"""Integers with at most this many different values, and five rows to a value, are codes: categories rather than numbers."""

_QUANTILES = 256  # knots between repeated values
_REPEATED = 0.01  # share of the rows from which on a value counts as often repeated: so at most 100 of them
_MOST_EXACT = 2**52  # lattice numbers up to here are exact in float64, halves included


def infer(name: str, cells: Sequence[str], lines: Sequence[int], where: str) -> Column:
    """The column for these cells, one a row, which stand on these lines of the file `where`.

    Raises InputError for a column of numbers in which a few cells are something else.
    """
    markers = Counter(c for c in cells if is_missing(c))
    missing = markers.most_common(1)[0][0] if markers else None
    present = [c for c in cells if not is_missing(c)]
    if not present:
        return Constant(name, missing or "")
    counts = Counter(present)
    if len(counts) == 1 and missing is None:
        return Constant(name, present[0])
    comma = any("," in c for c in present) and all(is_number(c, comma=True) for c in present)
    strange = [c for c in counts if not is_number(c, comma)]
    if not strange:
        huge = [c for c in counts if not math.isfinite(float(c.replace(",", ".")))]
        if huge:
            raise InputError(
                f"{where}, line {lines[cells.index(huge[0])]}: column {name!r} holds {huge[0]}, more than float64 can hold"
            )
        return _of_numbers(name, present, counts, comma, missing)
    if len(counts) <= 2 or (len(counts) <= MOST_CATEGORIES and 2 * len(counts) <= len(present)):
        return Categorical(name, tuple(sorted(counts)), missing)
    odd = sum(counts[c] for c in strange)
    if odd <= 0.1 * len(present):
        line = lines[cells.index(strange[0])]
        raise InputError(
            f"{where}, line {line}: column {name!r} holds numbers, but {odd} of its {len(present)} values are not, such as "
            f"{strange[0]!r}; correct them, or leave them empty to have them treated as missing"
        )
    return LeftOut(name)


def _of_numbers(name: str, present: Sequence[str], counts: Counter[str], comma: bool, missing: str | None) -> Column:
    values = np.array([float(c.replace(",", ".")) for c in present])
    distinct = np.unique(values)
    integers = all(c.lstrip("+-").isdigit() for c in counts)
    if integers and missing is None and len(distinct) == len(values) and (np.diff(values) == 1).all():
        return RowNumber(name, int(present[0]))
    if len(distinct) <= 2 or (integers and len(distinct) <= MOST_CODES and 5 * len(distinct) <= len(values)):
        return Categorical(name, tuple(sorted(counts, key=lambda c: (float(c.replace(",", ".")), c))), missing)
    places = {_decimals(c) for c in present}
    decimals = max(places)
    digits = max(len(re.sub(r"[eE].*|[^\d]", "", c).lstrip("0")) for c in counts)
    origin, step = _lattice(distinct, decimals)
    knots, levels = fit_distribution(values, half_width(decimals, step))
    return Numeric(name, knots, levels, decimals, origin, step, digits, min(places) if step else 0, comma, missing)


def _decimals(cell: str) -> int:
    """Digits after the decimal mark, once written without an exponent: 1.50 -> 2, 1e-3 -> 3, 200 -> 0."""
    mantissa, _, exponent = cell.lower().replace(",", ".").partition("e")
    return max(len(mantissa.partition(".")[2]) - int(exponent or 0), 0)


def _lattice(distinct: np.ndarray, decimals: int) -> tuple[int, int]:
    """(origin, step) of the coarsest lattice, in units of 10^-decimals, that holds all values; step 0 beyond float64's reach."""
    if decimals > 22 or np.abs(distinct).max() * 10.0**decimals > _MOST_EXACT:
        return 0, 0
    units = np.rint(distinct * 10.0**decimals).astype(np.int64)
    return int(units[0]), math.gcd(*(int(d) for d in np.diff(units)))


def fit_distribution(values: np.ndarray, half: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A piecewise linear distribution function of values (N,), each spread over x - half ... x + half: knots (x, level), rising."""
    x, count = np.unique(values, return_counts=True)
    below = np.concatenate([[0], count.cumsum()])  # how many rows lie below the i-th value
    middle = below[:-1] + count / 2
    n = len(values)
    repeated = count >= max(_REPEATED * n, 3)
    single = np.flatnonzero(~repeated)
    if len(single) > _QUANTILES:
        nearest = np.searchsorted(middle[single], np.linspace(0, n, _QUANTILES)).clip(0, len(single) - 1)
        single = np.unique(single[nearest])
    knots = [(x[i], middle[i]) for i in single]
    knots += [(x[i] + side * half, below[i + (side > 0)]) for i in np.flatnonzero(repeated) for side in (-1, 1)]
    if half > 0:
        knots += [(x[0] - half, 0), (x[-1] + half, n)]
    rising = sorted({(float(a), float(b)) for a, b in knots})
    return tuple(a for a, _ in rising), tuple(b / n for _, b in rising)

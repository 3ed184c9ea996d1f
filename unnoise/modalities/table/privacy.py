"""Does a model give its training rows away? Distances of made rows to the closest record, of training and of held-out rows.

share       n training and h held-out rows; the closest record of k made rows is a training row, of l a held-out one (of both
            where several are equally close, in their proportion). A model that knows no more of the ones than of the others has
            E k / E l = n / h, so each held-out row counts n / h times: share = k / (k + l n / h), 1/2 at best, 1 if all are
            copies (Platzer & Reutterer 2021, 2104.00635, who draw as many training rows as were held out: that hides a copy of
            all the others)
closest     the 5 % quantile of made rows' distances to their closest training row, beside that of held-out rows
copies      made rows that equal a training row in every value, beside held-out ones that do: tables of few values repeat
"""

from dataclasses import astuple, dataclass

import numpy as np
import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.intervals import share
from unnoise.modalities.table.columns import Table, modelled
from unnoise.modalities.table.halves import half_error
from unnoise.modalities.table.vectors import vectors

_MADE, _KNOWN = 2000, 20_000  # rows at most: 160 MB of distances
_QUANTILE = 0.05


@dataclass(frozen=True)
class Privacy:
    """Values with their 95 % intervals; `..._held`: what held-out rows have in their place."""

    share: tuple[float, float, float]
    closest: tuple[float, float, float]
    closest_held: float
    copies: tuple[float, float, float]
    copies_held: float


def privacy(train: Table, held: Table, made: Table, seed: int = 0) -> Privacy:
    """Raises InputError with fewer than 20 rows of a kind."""
    if min(map(len, (train, held, made))) < 20:
        raise InputError(
            f"distances to the closest record need 20 rows at least of training, held-out and made rows; these are {len(train)}, "
            f"{len(held)} and {len(made)}"
        )
    copied, copied_held = copies(made, train), copies(held, train)
    rng = np.random.default_rng(seed)
    cut = [t[_some(len(t), most, rng)] for t, most in ((made, _MADE), (train, _KNOWN), (held, _KNOWN))]
    m, t, h = (torch.from_numpy(vectors(x, train)).float() for x in cut)
    to_train, to_held = distances(m, t), distances(m, h)

    def share_of(keep: list[np.ndarray]) -> float:
        rows, known, others = (torch.from_numpy(k) for k in keep)
        return closer_share(to_train[rows][:, known], to_held[rows][:, others])

    value = closer_share(to_train, to_held)
    error = 1.96 * half_error(share_of, [len(m), len(t), len(h)], seed=seed)
    nearest = to_train.min(1).values.sort().values
    low, high = _quantile_ranks(len(nearest))
    held_nearest = distances(h[:_MADE], t).min(1).values
    return Privacy(
        (value, max(value - error, 0.0), min(value + error, 1.0)),
        (float(nearest.quantile(_QUANTILE)), float(nearest[low]), float(nearest[high])),
        float(held_nearest.quantile(_QUANTILE)),
        astuple(share(int(copied.sum()), len(made))),
        float(copied_held.mean()),
    )


def closer_share(to_train: Tensor, to_held: Tensor) -> float:
    """From the distances (m, n) and (m, h) of made rows; 0 ... 1."""
    nearest = torch.minimum(to_train.min(1).values, to_held.min(1).values)[:, None]
    trained, held = ((d == nearest).sum(1).double() for d in (to_train, to_held))
    k = float((trained / (trained + held)).sum())
    weighted = (len(to_train) - k) * to_train.shape[1] / to_held.shape[1]
    return k / (k + weighted)


def copies(made: Table, train: Table) -> np.ndarray:
    """(B,) bool: which made rows equal a training row in every value, missing ones included."""
    known = set(_contents(train))
    return np.array([row in known for row in _contents(made)], dtype=bool)


def _contents(table: Table) -> list[bytes]:
    modelled(table)
    numbers = table.numeric.numpy() + 0.0  # -0.0 is 0.0
    numbers[np.isnan(numbers)] = np.nan  # one NaN for all
    return [a.tobytes() + b.tobytes() for a, b in zip(numbers, table.categorical.numpy())]


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean (n, m), without the cancellation that would let copies look a little apart."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _some(n: int, most: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(np.arange(n) if n <= most else np.sort(rng.permutation(n)[:most]))


def _quantile_ranks(n: int) -> tuple[int, int]:
    """The ranks between which the quantile lies in 95 % of samples, whatever their distribution (binomial, nearly)."""
    middle, error = n * _QUANTILE, 1.96 * (n * _QUANTILE * (1 - _QUANTILE)) ** 0.5
    return max(int(middle - error) - 1, 0), min(int(middle + error) + 1, n - 1)

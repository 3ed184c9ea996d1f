"""How many different rows there are, in effect: the Vendi score (Friedman & Dieng 2023, TMLR, 2210.02410).

    V = exp(H),  H = - sum l log l over the eigenvalues l of K / n,  K_ij = <x_i, x_j> / (|x_i| |x_j|)
1 if all rows point one way, n if all are at right angles. K / n has the eigenvalues of rho = X^T X / n (F, F) with rows of length
1, so n may be any number. What a row adds to H is -x^T log(rho) x - H, whence the interval (delta method).
"""

import math

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.intervals import Interval, Z
from unnoise.evaluation.frechet import rows_of

_BLOCK = 4096


def vendi(x: Tensor) -> Interval:
    """Of features (n, F), n >= 2; 1 ... min(n, F). InputError for a row of zeros, which has no direction."""
    x = rows_of(x)
    if len(x) < 2:
        raise InputError("1 row has no diversity: at least 2 are needed")
    lengths = x.double().norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        raise InputError("a row has features that are all 0: its angle to others, and so the Vendi score, is not defined")
    blocks = list(zip(x.split(_BLOCK), lengths.split(_BLOCK)))
    rho = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for rows, length in blocks:
        unit = rows.double() / length
        rho += unit.T @ unit / len(x)
    values, vectors = torch.linalg.eigh(rho)
    logs = values.clamp(min=1e-12).log()
    entropy = -float((values.clamp(min=0) * logs).sum())
    surprise = torch.cat([-((rows.double() / length @ vectors).square() @ logs) for rows, length in blocks])
    reach = Z * float(surprise.std()) / math.sqrt(len(x))
    return Interval(math.exp(entropy), max(1.0, math.exp(entropy - reach)), math.exp(entropy + reach))

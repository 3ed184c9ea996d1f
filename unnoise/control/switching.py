"""Prompts that change on the way: one Denoise until a time, another from there on."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.predictions import Prediction
from unnoise.core.state import State, expand


def switched(parts: Sequence[tuple[float, Denoise]]) -> Denoise:
    """Each of the parts from its time (included) down to the next one's; the first also above its own.

    parts: (time, Denoise), the times falling. Samples at different times each get their own; parts that no sample needs are not
    called. A solver that looks at the end of a step, as Heun's does, sees there what holds from that time on. Raises InputError for
    no parts, or times that do not fall.
    """
    starts = [start for start, _ in parts]
    if not starts or any(b >= a for a, b in pairwise(starts)):
        raise InputError(f"what is said must change at falling times; these are {starts}")
    if len(parts) == 1:
        return parts[0][1]

    def denoise(x_t: State, t: Tensor) -> Prediction:
        later = torch.tensor(starts[1:], dtype=t.dtype, device=t.device)
        which = (t[:, None] <= later * (1 + 1e-6)).sum(1)  # a hair above: times may have been through float32
        needed = which.unique().tolist()
        said = parts[needed[0]][1](x_t, t)
        for k in needed[1:]:
            mine = which == k
            said = said.map(lambda a, b, mine=mine: torch.where(expand(mine, a).bool(), b, a), parts[k][1](x_t, t))
        return said

    return denoise

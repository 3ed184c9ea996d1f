"""Averaged weights: power-function EMA, and any width of it after the fact. Karras et al. 2024 (2312.02696), section 3, appendix C.

The average after step t of the weights theta(1) ... theta(t), with a profile that rises as tau^gamma (eq. 126-127):

    avg_t = beta_t avg_{t-1} + (1 - beta_t) theta(t),   beta_t = (1 - 1/t)^(gamma + 1),

whose closed form is the telescoped sum_i [(i/t)^(gamma+1) - ((i-1)/t)^(gamma+1)] theta(i). A profile is named by its
relative width, the standard deviation of tau/t under it (eq. 128):

    sigma_rel = sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))).

Averages p_i stored at times t_i with exponents gamma_i span others: the nearest to profile (t_r, gamma_r) in L2 has the
coefficients x with A x = b, A_ij = <p_i, p_j>, b_i = <p_i, p_r>, and for t_a <= t_b (eq. 164)

    <p_a, p_b> = (gamma_a + 1)(gamma_b + 1) (t_a / t_b)^gamma_b / ((gamma_a + gamma_b + 1) t_b).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.files import atomically
from unnoise.training.distributed import World


def gamma_of(width: float) -> float:
    """The exponent gamma >= 0 of a relative width 0 < sigma_rel < 12^-1/2: the largest root of the cubic."""
    u = width**-2
    return float(np.roots([1, 7, 16 - u, 12 - u]).real.max())


def beta(step: int, gamma: float) -> float:
    """The weight of the old average at step 1, 2, ...; the first step takes the weights as they are."""
    return (1 - 1 / step) ** (gamma + 1)


class Averages:
    """Averages of some parameters in several widths, in float32, sharded as the parameters are."""

    def __init__(self, params: Mapping[str, Tensor], widths: Sequence[float], world: World) -> None:
        self._params, self._world = params, world
        self.values = {w: {n: torch.zeros_like(p, dtype=torch.float32) for n, p in params.items()} for w in widths}
        self._gammas = {w: gamma_of(w) for w in widths}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters as they are after optimiser step 1, 2, ..."""
        current = [self._world.local(p).float() for p in self._params.values()]
        for width, average in self.values.items():
            torch._foreach_lerp_([self._world.local(a) for a in average.values()], current, 1 - beta(step, self._gammas[width]))


def inner(t_a: np.ndarray, gamma_a: np.ndarray, t_b: np.ndarray, gamma_b: np.ndarray) -> np.ndarray:
    """<p_a, p_b> over [0, inf) of power-function profiles that end at t_a and t_b; arrays broadcast."""
    ratio = t_a / t_b
    decay = np.where(t_a < t_b, ratio**gamma_b, ratio**-gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) * decay / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))


def coefficients(have: Sequence[tuple[int, float]], width: float, step: int) -> np.ndarray:
    """How much of each stored average (step, width) makes the one of `width` at `step`, one of theirs: (len(have),).

    They add up to about 1 there; at a step between two snapshots, or behind the last, they would fall far short of it.
    """
    t = np.array([s for s, _ in have], dtype=np.float64)
    g = np.array([gamma_of(w) for _, w in have])
    gram = inner(t[:, None], g[:, None], t[None], g[None])
    target = inner(t, g, np.array(float(step)), np.array(gamma_of(width)))
    return np.linalg.lstsq(gram, target, rcond=1e-14)[0]


_SNAPSHOT = re.compile(r"ema-(0\.\d+)-(\d+)")
"""Width and step in the name of a file."""


def save_snapshot(run: Path, width: float, step: int, values: Mapping[str, Tensor]) -> None:
    """Keep an average for `reconstruct`, in float16 as in the paper."""
    with atomically(run / "snapshots" / f"ema-{width:.4f}-{step:08d}.safetensors") as path:
        save_file({n: v.to(torch.float16).contiguous() for n, v in values.items()}, path)


def forget_snapshots(run: Path, step: int) -> None:
    """Remove the averages of later steps than this, to which the run has gone back."""
    for path in (run / "snapshots").glob("ema-*.safetensors"):
        name = _SNAPSHOT.fullmatch(path.stem)
        if name is not None and int(name[2]) > step:
            path.unlink()


def snapshots(run: Path, step: int | None = None) -> dict[tuple[int, float], Path]:
    """The averages that a run kept up to a step, by step and width. InputError if there are none."""
    found = {}
    for path in sorted((run / "snapshots").glob("ema-*.safetensors")):
        name = _SNAPSHOT.fullmatch(path.stem)
        if name is not None and (step is None or int(name[2]) <= step):
            found[int(name[2]), float(name[1])] = path
    if not found:
        raise InputError(f"{run / 'snapshots'}: no averaged weights{f' up to step {step}' if step else ''}; see snapshot_every")
    return found


def reconstruct(run: Path, width: float, step: int | None = None) -> dict[str, Tensor]:
    """The averaged weights that a run would have had with another width, from the snapshots that it kept.

    run: the run's folder. width: sigma_rel; best between half the narrowest and twice the widest one tracked.
    step: as they were at the last snapshot up to this step, by default the last of all. Returns the trained parameters by name,
    float32. Raises InputError if there are no snapshots up to that step, or one cannot be read.
    """
    if not 0 < width < 0.28:
        raise InputError(f"ema width {width}: must lie between 0 and 0.28")
    found = snapshots(run, step)
    weights = coefficients(list(found), width, max(s for s, _ in found))
    total: dict[str, Tensor] = {}
    for c, path in zip(weights, found.values()):
        try:
            for key, value in load_file(path).items():
                total[key] = total[key].add_(value.float(), alpha=c) if key in total else value.float() * c
        except (SafetensorError, OSError) as e:
            raise InputError(f"{path}: cannot be read ({e}); remove it to reconstruct from the other snapshots") from e
    return total

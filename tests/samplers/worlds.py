"""Worlds with known answers that the sampler tests share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.oracles import ExactMixture
from unnoise.core.predictions import Mean
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import Schedule
from unnoise.samplers.loop import Sampler, sample
from unnoise.samplers.unipc import UniPCState


def mixture(process: Gaussian, dims: int, variances: Sequence[float]) -> ExactMixture:
    """Four isotropic components, weights 0.1 ... 0.4; their means are as far apart in 64 dimensions as matters in 2."""
    g = torch.Generator().manual_seed(0)
    means = torch.randn(4, dims, generator=g, dtype=torch.float64) * (1 if dims == 2 else 0.6)
    return ExactMixture(process, [0.1, 0.2, 0.3, 0.4], means, variances)


def oracle(model: ExactMixture) -> Denoise:
    return lambda x, t: model(x, t, {})


def draws(model: ExactMixture, sampler: Sampler, times: Tensor, n: int, seed: int, rows: int = 50) -> Tensor:
    """n samples (n, D), in `rows` rows of n / rows points: the samplers act point by point, and fewer streams are quicker."""
    process, dims, rng = model.process, model.shape[0], Streams.of(seed, rows)

    def denoise(x: Tensor, t: Tensor) -> Mean:
        return Mean(model(x.flatten(0, 1), t.repeat_interleave(x.shape[1]), {}).x0.reshape(x.shape))

    x = sample(denoise, process, process.prior((n // rows, dims), rng), times, sampler, rng.scoped("walk"))
    return x.flatten(0, 1)


def energy(x: Tensor, y: Tensor) -> float:
    """nm/(n+m) (2 E|x-y| - E|x-x'| - E|y-y'|): the energy statistic of Szekely & Rizzo, 0 for equal laws."""
    n, m = len(x), len(y)
    x, y = x.double(), y.double()
    d = 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()
    return float(d) * n * m / (n + m)


def energy_spectrum(x: Tensor) -> Tensor:
    """Under the null the energy statistic tends to sum_i l_i Z_i^2, l_i the eigenvalues of the centred kernel -|x - y|."""
    k = -torch.cdist(x.double(), x.double())
    k = k - k.mean(0) - k.mean(1)[:, None] + k.mean()
    return torch.linalg.eigvalsh(k / len(x)).clamp(min=0)


def energy_threshold(spectrum: Tensor, rate: float) -> float:
    """q with P(sum l_i Z_i^2 > q) <= rate, by Chernoff: P <= e^(-s q) prod (1 - 2 s l_i)^(-1/2), the best of 99 s."""
    top = float(spectrum.max())
    s = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)[:, None] / (2 * top)
    q = (-math.log(rate) - 0.5 * torch.log1p(-2 * s * spectrum).sum(1, keepdim=True)) / s
    return float(q.min())


def ode(model: ExactMixture, x: Tensor, t: float, s: float, steps: int) -> Tensor:
    """The probability-flow ODE from t to s (either way), by RK4 in the angle phi = atan(sigma / alpha): the reference."""
    schedule = model.process.schedule

    def at(u: float) -> Tensor:
        return torch.tensor(u, dtype=torch.float64)

    def angle(u: float) -> float:
        return math.atan2(float(schedule.sigma(at(u))), float(schedule.alpha(at(u))))

    def scale(u: Tensor) -> Tensor:
        return torch.hypot(schedule.alpha(u), schedule.sigma(u))

    def slope(y: Tensor, phi: float) -> Tensor:
        u = schedule.time(-2 * at(math.tan(phi)).log())
        return (math.cos(phi) * y - model(scale(u) * y, u.expand(len(y)), {}).x0) / math.sin(phi)

    y, a, b = x / scale(at(t)), angle(t), angle(s)
    h = (b - a) / steps
    for phi in np.linspace(a, b, steps, endpoint=False).tolist():
        k1 = slope(y, phi)
        k2 = slope(y + h / 2 * k1, phi + h / 2)
        k3 = slope(y + h / 2 * k2, phi + h / 2)
        k4 = slope(y + h * k3, phi + h)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y * scale(at(s))


@dataclass(frozen=True)
class Path:
    """Eight exact paths of the ODE between interior times t and s, where it is smooth."""

    model: ExactMixture
    x: Tensor
    end: Tensor
    t: float = 0.8
    s: float = 0.3

    @staticmethod
    def of(dims: int, schedule: Schedule) -> "Path":
        model, rng = (
            mixture(Gaussian(schedule), dims, [0.6, 0.8, 0.5, 0.7] if dims == 2 else [1.2, 1.6, 1.0, 1.4]),
            Streams.of(1, 8),
        )
        x = model.process.corrupt(model.sample(rng).double(), torch.full((8,), Path.t, dtype=torch.float64), rng).x_t
        assert isinstance(x, Tensor)
        return Path(model, x, ode(model, x, Path.t, Path.s, 500))


def convergence(path: Path, sampler: Sampler, steps: Sequence[int]) -> tuple[float, list[float]]:
    """The measured order, the slope of log error against log steps, and the errors (rms of |x_s - exact|).

    Multistep samplers get an exact history: they are shown exact earlier points of the same path and only their memory is kept.
    """
    model, x, t, s = path.model, path.x, path.t, path.s
    denoise, rng, errors = oracle(model), Streams.of(1, len(x)), []

    def row(u: float) -> Tensor:
        return torch.full((len(x),), u, dtype=torch.float64)

    for count in steps:
        d = (t - s) / count
        state = sampler.start(x)
        for k in (3, 2, 1) if state is not None else ():
            before = ode(model, x, t, t + k * d, 20)
            _, state = sampler.step(denoise, model.process, before, row(t + k * d), row(t + (k - 1) * d), state, rng)
            state = with_point(state, before)
        y = x
        for i in range(count):
            y, state = sampler.step(denoise, model.process, y, row(t - i * d), row(t - (i + 1) * d), state, rng)
        assert isinstance(y, Tensor)
        errors.append(float((y - path.end).square().sum(1).mean().sqrt()))
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0]), errors


def with_point(state: Any, x: Tensor) -> Any:
    """UniPC remembers the point it left from, corrected with what little history it had: put the exact one back."""
    return replace(state, x=x) if isinstance(state, UniPCState) else state

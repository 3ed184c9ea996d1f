"""Preconditioning: what a network sees of x_t, and how its raw output F becomes a prediction of the data.

For a Gaussian process it is affine (Karras et al. 2022, 2206.00364, eq. 7), whatever the network is said to predict:

    x0 = c_skip(t) x_t + c_out(t) F(c_in(t) x_t, c_noise(t))

With x_t = a x0 + s e (a = alpha, s = sigma), solving the definition of each target for x0:
    data      F = x0                           c_skip 0              c_out 1
    noise     F = e                            c_skip 1/a            c_out -s/a
    score     F = s grad log p(x_t) = -e       c_skip 1/a            c_out s/a
    v         F = a e - s x0 (2202.00512)      c_skip a/(a^2+s^2)    c_out -s/(a^2+s^2)
    velocity  F = a' x0 + s' e = dx_t/dt       c_skip s'/w           c_out -s/w,   w = a s' - a' s
    EDM       unit-variance target             c_skip d^2 a/(s^2+a^2 d^2)   c_out s d/sqrt(s^2+a^2 d^2)   (d = std of the data)
Noise and score divide by alpha: schedules with alpha(1) = 0 are refused.

Open checkpoints see x_t unscaled, c_in = 1, and are told a timestep (`AtTimestep`).
Where a picture y that is told says nearly all of x0, what is left of it is the data (`AboutPicture`): x_t - a y = a (x0 - y) + s e.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from unnoise.core.errors import InputError
from unnoise.core.predictions import Fields, Logits, Mean, Prediction, Tangent
from unnoise.core.processes import Gaussian, Process, Product, Torus
from unnoise.core.processes.categorical import Categorical
from unnoise.core.processes.gaussian import gaussian, tensor
from unnoise.core.schedules import Schedule
from unnoise.core.state import Cond, State, expand, fields_of


class Preconditioner(ABC):
    """A frozen dataclass."""

    @abstractmethod
    def check(self, process: Process) -> None:
        """InputError if it cannot serve this process."""

    def told(self, cond: Cond) -> "Preconditioner":
        """This preconditioner for samples that are told `cond`; most are the same for all."""
        return self

    @abstractmethod
    def before(self, process: Process, x_t: State, t: Tensor) -> tuple[State, Tensor]:
        """The network's input (B, ...) and the noise level that it is told, (B,) float32, of order 1."""

    @abstractmethod
    def after(self, process: Process, out: State, x_t: State, t: Tensor) -> Prediction:
        """What the network's output means."""


class Affine(Preconditioner, ABC):
    """The Gaussian case. `data_std` is d above: the standard deviation of the codec's output."""

    data_std: float
    divides_by_alpha = False

    @abstractmethod
    def skip_out(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out at times t (B,), float64."""

    def check(self, process: Process) -> None:
        if not isinstance(process, Gaussian):
            raise InputError(f"{type(self).__name__} preconditions a Gaussian process; this one is {type(process).__name__}")
        if self.divides_by_alpha and float(process.schedule.alpha(torch.ones((), dtype=torch.float64))) == 0:
            raise InputError(
                f"{type(self).__name__} prediction divides by alpha, and {type(process.schedule).__name__} has no signal left at "
                "t = 1 (zero terminal SNR): predict Data, V, Velocity or EDM instead"
            )

    def before(self, process: Process, x_t: State, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in brings x_t to unit variance; c_noise = log_snr / 4, clamped to [-5, 5] (EDM's ln(sigma) / 4, up to sign)."""
        schedule, x = gaussian(process, type(self).__name__).schedule, tensor(x_t)
        a, s = schedule.alpha(t), schedule.sigma(t)
        c_in = (s**2 + (a * self.data_std) ** 2).rsqrt()
        return expand(c_in, x) * x, (schedule.log_snr(t) / 4).clamp(-5, 5).float()

    def after(self, process: Process, out: State, x_t: State, t: Tensor) -> Mean:
        x, f = tensor(x_t), tensor(out)
        c_skip, c_out = self.skip_out(gaussian(process, type(self).__name__).schedule, t)
        return Mean(expand(c_skip, x) * x + expand(c_out, x) * f.to(x.dtype))


@dataclass(frozen=True)
class Data(Affine):
    data_std: float = 0.5

    def skip_out(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


@dataclass(frozen=True)
class Noise(Affine):
    data_std: float = 0.5
    divides_by_alpha = True

    def skip_out(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = schedule.alpha(t), schedule.sigma(t)
        return 1 / a, -s / a


@dataclass(frozen=True)
class Score(Affine):
    """The network gives sigma times the score of p(x_t)."""

    data_std: float = 0.5
    divides_by_alpha = True

    def skip_out(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = schedule.alpha(t), schedule.sigma(t)
        return 1 / a, s / a


@dataclass(frozen=True)
class V(Affine):
    data_std: float = 0.5

    def skip_out(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s = schedule.alpha(t), schedule.sigma(t)
        r = a**2 + s**2
        return a / r, -s / r


@dataclass(frozen=True)
class Velocity(Affine):
    data_std: float = 0.5

    def skip_out(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s, da, ds = schedule.alpha(t), schedule.sigma(t), schedule.d_alpha(t), schedule.d_sigma(t)
        w = a * ds - da * s
        return ds / w, -s / w


@dataclass(frozen=True)
class EDM(Affine):
    """Karras et al. 2022, table 1, for any alpha."""

    data_std: float = 0.5

    def skip_out(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, s, d = schedule.alpha(t), schedule.sigma(t), self.data_std
        r = s**2 + (a * d) ** 2
        return d**2 * a / r, s * d * r.rsqrt()


@dataclass(frozen=True)
class AtLogSigma(EDM):
    """EDM for networks of timesteps, which are told ln(sigma / alpha) / 4 in place of them, here a thousandth of it: Playground
    v2.5 (Li et al. 2024, 2402.17245, section 2.1), CosXL. negated: the network gives -F, as one of v does (CosXL)."""

    negated: bool = False

    def before(self, process: Process, x_t: State, t: Tensor) -> tuple[Tensor, Tensor]:
        x, level = super().before(process, x_t, t)  # minus a half of ln(sigma / alpha)
        return x, -level / 2000

    def skip_out(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        c_skip, c_out = super().skip_out(schedule, t)
        return c_skip, -c_out if self.negated else c_out


@dataclass(frozen=True)
class AtTimestep(Preconditioner):
    """The network sees x_t as it is, and is told the time since `first` as the noise level; its output is `target`'s.

    first: the time that the network calls 0: 1 / T for the T steps of a discrete schedule, whose step i = 1 ... T is its timestep
    i - 1; 0 for a flow. ticks: the network knows multiples of 1 / ticks alone, and is told the last one passed, where times a
    millionth of a tick below one count as there; None for any time.
    """

    target: Affine
    first: float = 0.0
    ticks: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.first < 1 or (self.ticks is not None and self.ticks < 1):
            raise InputError(f"AtTimestep: first {self.first} must lie in [0, 1) and ticks {self.ticks} be at least 1")

    def check(self, process: Process) -> None:
        self.target.check(process)

    def before(self, process: Process, x_t: State, t: Tensor) -> tuple[Tensor, Tensor]:
        level = (t - self.first).clamp(min=0)
        return tensor(x_t), (level if self.ticks is None else (level * self.ticks + 1e-6).floor() / self.ticks).float()

    def after(self, process: Process, out: State, x_t: State, t: Tensor) -> Mean:
        return self.target.after(process, out, x_t, t)


@dataclass(frozen=True)
class AboutPicture(Preconditioner):
    """`target`, with the residual over the `picture` (B, C, H, W) of the condition as its data.

    For pictures that what is told leaves little of (SRDiff, Li et al. 2021, 2104.14951, section 3.2): `data_std` is the residual's,
    so that the network is not asked again for what it was told, and noise levels count from where the residual drowns. Samples that
    are told no picture are `target`'s.
    """

    target: Affine

    def check(self, process: Process) -> None:
        self.target.check(process)

    def told(self, cond: Cond) -> Preconditioner:
        return _Centred(self.target, cond["picture"]) if "picture" in cond else self.target

    def before(self, process: Process, x_t: State, t: Tensor) -> tuple[State, Tensor]:
        return self.target.before(process, x_t, t)

    def after(self, process: Process, out: State, x_t: State, t: Tensor) -> Prediction:
        return self.target.after(process, out, x_t, t)


@dataclass(frozen=True)
class _Centred(Preconditioner):
    """centre: y above, of the shape of x_t."""

    target: Affine
    centre: Tensor

    def check(self, process: Process) -> None:
        self.target.check(process)

    def before(self, process: Process, x_t: State, t: Tensor) -> tuple[State, Tensor]:
        return self.target.before(process, self._residual(process, x_t, t), t)

    def after(self, process: Process, out: State, x_t: State, t: Tensor) -> Mean:
        return Mean(self.centre + self.target.after(process, out, self._residual(process, x_t, t), t).x0)

    def _residual(self, process: Process, x_t: State, t: Tensor) -> Tensor:
        x = tensor(x_t)
        return x - expand(gaussian(process, "AboutPicture").schedule.alpha(t), x) * self.centre


@dataclass(frozen=True)
class Categories(Preconditioner):
    """The network sees x_t one-hot (B, ..., symbols) and gives logits (B, ..., K)."""

    def check(self, process: Process) -> None:
        _categorical(process)

    def before(self, process: Process, x_t: State, t: Tensor) -> tuple[Tensor, Tensor]:
        return one_hot(tensor(x_t), _categorical(process).tokens()).float(), (4 * t - 2).float()

    def after(self, process: Process, out: State, x_t: State, t: Tensor) -> Logits:
        logits = tensor(out).float()
        return Logits(logits.masked_fill(~_categorical(process).allowed.to(logits.device), -torch.inf))


@dataclass(frozen=True)
class Circular(Preconditioner):
    """The network sees (cos x_t, sin x_t) stacked last (B, ..., 2) and gives F (B, ...); the tangent is sigma(t) F."""

    def check(self, process: Process) -> None:
        _torus(process)

    def before(self, process: Process, x_t: State, t: Tensor) -> tuple[Tensor, Tensor]:
        x = tensor(x_t)
        sigma = _torus(process).schedule.sigma(t)
        return torch.stack([x.cos(), x.sin()], -1), (sigma.clamp(min=1e-4).log() / 2).float()

    def after(self, process: Process, out: State, x_t: State, t: Tensor) -> Tangent:
        x, f = tensor(x_t), tensor(out)
        return Tangent(expand(_torus(process).schedule.sigma(t), x) * f.to(x.dtype))


@dataclass(frozen=True)
class PerField(Preconditioner):
    """One preconditioner a field of a Product; the network maps a mapping to a mapping and is told the time as 4 t - 2."""

    fields: Mapping[str, Preconditioner]

    def check(self, process: Process) -> None:
        for k, p in self.fields.items():
            p.check(self._parts(process)[k])

    def before(self, process: Process, x_t: State, t: Tensor) -> tuple[State, Tensor]:
        parts, x = self._parts(process), fields_of(x_t)
        return {k: tensor(p.before(parts[k], x[k], t)[0]) for k, p in self.fields.items()}, (4 * t - 2).float()

    def after(self, process: Process, out: State, x_t: State, t: Tensor) -> Fields:
        parts, raw, x = self._parts(process), fields_of(out), fields_of(x_t)
        return Fields({k: p.after(parts[k], raw[k], x[k], t) for k, p in self.fields.items()})

    def _parts(self, process: Process) -> Mapping[str, Process]:
        if not isinstance(process, Product) or set(process.fields) != set(self.fields):
            raise InputError(f"PerField has {sorted(self.fields)}; it needs a Product of the same fields, not {process}")
        return process.fields


def _categorical(process: Process) -> Categorical:
    if not isinstance(process, Categorical):
        raise InputError(f"Categories preconditions a categorical process; this one is {type(process).__name__}")
    return process


def _torus(process: Process) -> Torus:
    if not isinstance(process, Torus):
        raise InputError(f"Circular preconditions a torus; this process is {type(process).__name__}")
    return process

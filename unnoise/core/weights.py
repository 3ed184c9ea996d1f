"""Weights: how much the squared error of x_0 counts at each noise level.

With one affine preconditioner every Gaussian loss is w(t) |x_0 - x0_hat|^2 / dims. Given x_t, an error d in x_0 is an error
-(alpha / sigma) d in eps, so with SNR = alpha^2 / sigma^2 = e^l (l = log_snr) the errors of the usual targets are these weights:
    data       x_0                                              1
    noise      eps                                              SNR
    v          alpha eps - sigma x_0, alpha^2 + sigma^2 = 1     SNR + 1
    velocity   eps - x_0 (of the rectified flow)                (sqrt(SNR) + 1)^2
    EDM        F of unit variance (2206.00364, table 1)         SNR + 1 / data_std^2
They depend on log_snr alone. The weighted bounds of Kingma & Gao 2023 (2303.00848) are integrals over l; drawn at uniform
times they carry -dl/dt. The weights see l clamped to [-20, 20]: at sigma = e^-10 float32 only just tells x_0 from x_t,
so nothing is lost, and every weight is finite at all times in between 0 and 1.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.schedules import Schedule

LIMIT = 20.0


class Weight(ABC):
    """A frozen dataclass."""

    @abstractmethod
    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Times (B,) in (0, 1) -> weights (B,), float64, finite, not negative."""


class OfSNR(Weight, ABC):
    """Weights that depend on the signal-to-noise ratio alone."""

    @abstractmethod
    def of(self, snr: Tensor) -> Tensor: ...

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return self.of(schedule.log_snr(t).clamp(-LIMIT, LIMIT).exp())


@dataclass(frozen=True)
class DataWeight(OfSNR):
    """The plain error of x_0."""

    def of(self, snr: Tensor) -> Tensor:
        return torch.ones_like(snr)


@dataclass(frozen=True)
class Simple(OfSNR):
    """The plain error of the noise: the SNR weight, L_simple of Ho et al. 2020 (2006.11239, eq. 14)."""

    def of(self, snr: Tensor) -> Tensor:
        return snr


@dataclass(frozen=True)
class VWeight(OfSNR):
    """The plain error of v (Salimans & Ho 2022, 2202.00512, "SNR + 1")."""

    def of(self, snr: Tensor) -> Tensor:
        return snr + 1


@dataclass(frozen=True)
class VelocityWeight(OfSNR):
    """The plain error of eps - x_0: flow matching (Lipman et al. 2022, 2210.02747; Liu et al. 2022, 2209.03003).

    `smallest`: below this rectified-flow time the weight grows no more; 0.05 for a network that predicts the data (Li & He 2025,
    JiT, 2511.13720, algorithm 1), whose error there would be divided by almost nothing.
    """

    smallest: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smallest < 1:
            raise InputError(f"{self}: the smallest time must lie in [0, 1)")

    def of(self, snr: Tensor) -> Tensor:
        return (snr.sqrt() + 1).clamp(max=1 / self.smallest if self.smallest > 0 else math.inf) ** 2


@dataclass(frozen=True)
class EDMWeight(OfSNR):
    """(sigma^2 + d^2) / (sigma d)^2 with d = data_std, sigma for sigma / alpha (Karras et al. 2022, table 1)."""

    data_std: float = 0.5

    def __post_init__(self) -> None:
        _positive(self, self.data_std)

    def of(self, snr: Tensor) -> Tensor:
        return snr + self.data_std**-2


@dataclass(frozen=True)
class TruncatedSNR(OfSNR):
    """max(SNR, 1): the worse of the errors of x_0 and eps (Salimans & Ho 2022, 2202.00512, "truncated SNR")."""

    def of(self, snr: Tensor) -> Tensor:
        return snr.clamp(min=1)


@dataclass(frozen=True)
class MinSNR(OfSNR):
    """min(SNR, gamma) (Hang et al. 2023, 2303.09556)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        _positive(self, self.gamma)

    def of(self, snr: Tensor) -> Tensor:
        return snr.clamp(max=self.gamma)


@dataclass(frozen=True)
class SigmoidWeight(Weight):
    """sigmoid(bias - l) on the noise error, integrated over l (Kingma & Gao 2023; Hoogeboom et al. 2024, 2410.19324).

    Meant for uniform times. Small bias: fine detail counts less.
    """

    bias: float = 2.0

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        l = schedule.log_snr(t).clamp(-LIMIT, LIMIT)
        return torch.sigmoid(self.bias - l) * Likelihood()(schedule, t)


@dataclass(frozen=True)
class Likelihood(Weight):
    """-dl/dt SNR / 2: with uniform times the diffusion loss of the variational bound (Kingma et al. 2021, 2107.00630, eq. 17)."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        l = schedule.log_snr(t).clamp(-LIMIT, LIMIT)
        return -0.5 * schedule.d_log_snr(t) * l.exp()


def _positive(weight: object, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{weight}: the value must be positive and finite")

"""Schedules: how much signal alpha(t) and noise sigma(t) are left at time t in x_t = alpha x_0 + sigma eps.

t = 0 is data (alpha 1, sigma 0), t = 1 is noise; both ends are exact. Times are float64 tensors of any shape.
log_snr(t) = log(alpha^2 / sigma^2) falls from +inf; it reaches -inf at t = 1 where alpha(1) = 0 (zero terminal SNR).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unnoise.core.errors import InputError


class Schedule(ABC):
    """Signal and noise scale over time; a frozen dataclass. All methods map tensors elementwise."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def time(self, log_snr: Tensor) -> Tensor:
        """The inverse of log_snr; values beyond log_snr(1) give 1."""

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def d_alpha(self, t: Tensor) -> Tensor:
        return _derivative(self.alpha, t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return _derivative(self.sigma, t)

    def d_log_snr(self, t: Tensor) -> Tensor:
        return _derivative(self.log_snr, t)


def _derivative(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    with torch.enable_grad():
        t = t.detach().clone().requires_grad_(True)
        y = f(t)
        return torch.autograd.grad(y.sum(), t)[0] if y.requires_grad else torch.zeros_like(t)


def _sigma_of_log_alpha(log_alpha: Tensor) -> Tensor:
    """sqrt(1 - alpha^2), exact near alpha = 1."""
    return (-torch.expm1(2 * log_alpha)).clamp(min=0).sqrt()


@dataclass(frozen=True)
class LinearVP(Schedule):
    """Variance preserving with beta(t) linear, in continuous time. Song et al. 2021 (2011.13456), eq. 32-33."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * t**2 * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return _sigma_of_log_alpha(self._log_alpha(t))

    def time(self, log_snr: Tensor) -> Tensor:
        # -log alpha^2 = log(1 + e^-l) =: u solves (b1 - b0)/2 t^2 + b0 t = u; the root without cancellation:
        u = torch.nn.functional.softplus(-log_snr).clamp(max=1e12)  # finite, so that log_snr = -inf gives 1 as well
        b0, b1 = self.beta_min, self.beta_max
        return (2 * u / (b0 + (b0**2 + 2 * (b1 - b0) * u).sqrt())).clamp(0, 1)


class Discrete(Schedule, ABC):
    """`steps` discrete betas; step i (1 ... steps) stands at t = i / steps, with alpha^2 = (1 - beta_1) ... (1 - beta_i).

    Between steps beta is constant, that is log alpha^2 is linear, so every t in [0, 1] has a value.
    """

    steps: int

    @abstractmethod
    def betas(self) -> Tensor:
        """beta_1 ... beta_steps, (steps,) float64, each in (0, 1)."""

    @cached_property
    def _log_alpha2(self) -> Tensor:
        return torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-self.betas()).cumsum(0)])

    def _log_alpha(self, t: Tensor) -> Tensor:
        table = self._log_alpha2.to(t)
        u = t.clamp(0, 1) * self.steps
        i = u.detach().floor().long().clamp(max=self.steps - 1)
        return 0.5 * (table[i] + (u - i) * (table[i + 1] - table[i]))

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return _sigma_of_log_alpha(self._log_alpha(t))

    def time(self, log_snr: Tensor) -> Tensor:
        table = self._log_alpha2.to(log_snr)
        y = -torch.nn.functional.softplus(-log_snr)  # log alpha^2
        i = torch.searchsorted(-table, -y.contiguous(), right=True).clamp(1, self.steps) - 1
        return ((i + (y - table[i]) / (table[i + 1] - table[i])) / self.steps).clamp(0, 1)


@dataclass(frozen=True)
class DiscreteVP(Discrete):
    """The discrete betas of DDPM (Ho et al. 2020, 2006.11239).

    `power` = 1 spaces beta linearly (DDPM); 2 spaces its square root linearly ("scaled linear", latent diffusion).
    """

    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    power: float = 1.0

    def betas(self) -> Tensor:
        p = 1 / self.power
        return torch.linspace(self.beta_start**p, self.beta_end**p, self.steps, dtype=torch.float64) ** self.power


@dataclass(frozen=True)
class DiscreteCosine(Discrete):
    """The cosine schedule as Nichol & Dhariwal 2021 (2102.09672, eq. 17) trained it: in steps, with beta at most `most`."""

    steps: int = 1000
    offset: float = 0.008
    most: float = 0.999

    def betas(self) -> Tensor:
        u = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        alpha2 = torch.cos((u + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        return (1 - alpha2[1:] / alpha2[:-1]).clamp(max=self.most)


@dataclass(frozen=True)
class ZeroTerminal(Schedule):
    """A discrete schedule moved and stretched until nothing is left of the signal: Lin et al. 2023 (2305.08891), algorithm 1.

    From the first step on alpha' = alpha_1 (alpha - alpha_T) / (alpha_1 - alpha_T), so alpha'_1 = alpha_1 and alpha'_T = 0; before
    the first step, where data of discrete steps has no say, alpha stays what it was. alpha'^2 + sigma'^2 = 1.
    """

    discrete: Discrete

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """alpha_1 and alpha_T."""
        first, last = self.discrete.alpha(torch.tensor([1 / self.discrete.steps, 1.0], dtype=torch.float64)).tolist()
        return first, last

    def alpha(self, t: Tensor) -> Tensor:
        first, last = self._ends
        alpha = self.discrete.alpha(t)
        moved = (alpha - last) * (first / (first - last))
        stretched = torch.where(t < 1, moved.clamp(min=0), moved - moved.detach())  # at the end exactly 0, with the slope it has
        return torch.where(t * self.discrete.steps < 1, alpha, stretched)

    def sigma(self, t: Tensor) -> Tensor:
        alpha = self.alpha(t)
        return torch.where(t * self.discrete.steps < 1, self.discrete.sigma(t), ((1 - alpha) * (1 + alpha)).sqrt())

    def time(self, log_snr: Tensor) -> Tensor:
        first, last = self._ends
        alpha = torch.sigmoid(log_snr).sqrt()
        before = last + alpha * ((first - last) / first)  # alpha of the discrete schedule
        early = log_snr > math.log(first**2 / (1 - first**2))
        return self.discrete.time(torch.where(early, log_snr, 2 * before.log() - torch.log((1 - before) * (1 + before))))


@dataclass(frozen=True)
class Cosine(Schedule):
    """alpha = cos(pi t / 2), with the small start offset of Nichol & Dhariwal 2021 (2102.09672, eq. 17); alpha(1) = 0.

    `shift` moves log_snr by 2 log(shift) (Hoogeboom et al. 2023, 2301.11093: 64 / resolution for larger pictures).
    """

    offset: float = 0.008
    shift: float = 1.0

    def _signal_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, sigma) up to a common factor."""
        c = math.pi / 2 / (1 + self.offset)
        a0 = math.cos(self.offset * c)
        # cos^2 A0 - cos^2 A = sin(A - A0) sin(A + A0): no cancellation near t = 0; cos A = sin(c (1 - t)) is 0 at t = 1
        signal = torch.sin(c * (1 - t)) / a0
        noise2 = torch.sin(c * t) * torch.sin(c * (t + 2 * self.offset)) / a0**2
        return signal * self.shift, noise2.clamp(min=0).sqrt()

    def alpha(self, t: Tensor) -> Tensor:
        s, n = self._signal_noise(t)
        return s / torch.hypot(s, n)

    def sigma(self, t: Tensor) -> Tensor:
        s, n = self._signal_noise(t)
        return n / torch.hypot(s, n)

    def time(self, log_snr: Tensor) -> Tensor:
        c = math.pi / 2 / (1 + self.offset)
        a0 = math.cos(self.offset * c)
        alpha = torch.sigmoid(log_snr - 2 * math.log(self.shift)).sqrt()
        return (1 - torch.asin((alpha * a0).clamp(max=1)) / c).clamp(0, 1)


@dataclass(frozen=True)
class VE(Schedule):
    """Variance exploding: the SDE of Song et al. 2021 (2011.13456, eq. 30), alpha = 1.

    sigma(t)^2 = sigma_min^2 ((sigma_max / sigma_min)^(2t) - 1), the SDE's own transition variance, which is 0 at t = 0.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.expm1(2 * t * math.log(self.sigma_max / self.sigma_min)).clamp(min=0).sqrt()

    def time(self, log_snr: Tensor) -> Tensor:
        u = torch.log1p((-log_snr).exp() / self.sigma_min**2)
        return (u / (2 * math.log(self.sigma_max / self.sigma_min))).clamp(0, 1)


@dataclass(frozen=True)
class EDM(Schedule):
    """alpha = 1, sigma = sigma_max t: the time of Karras et al. 2022 (2206.00364) is sigma itself."""

    sigma_max: float = 80.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def time(self, log_snr: Tensor) -> Tensor:
        return ((-0.5 * log_snr).exp() / self.sigma_max).clamp(0, 1)


@dataclass(frozen=True)
class SubVP(Schedule):
    """Sub-VP: alpha as in LinearVP, sigma = 1 - alpha^2. Song et al. 2021 (2011.13456), eq. 29 and 33."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    @property
    def _vp(self) -> LinearVP:
        return LinearVP(self.beta_min, self.beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return self._vp.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self._vp._log_alpha(t))  # no root on the way: differentiable at t = 0

    def time(self, log_snr: Tensor) -> Tensor:
        # alpha / (1 - alpha^2) = e^(l/2) =: r  <=>  sinh(-log alpha) = 1/(2r); then LinearVP's log-SNR of that alpha
        m = torch.asinh(0.5 * (-0.5 * log_snr).exp())
        return self._vp.time(-torch.log(torch.expm1(2 * m)))


@dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """alpha = 1 - t', sigma = t' (Liu et al. 2022, 2209.03003; Lipman et al. 2022, 2210.02747); alpha(1) = 0.

    t' = shift t / (1 + (shift - 1) t) is the resolution shift of SD3 (Esser et al. 2024, 2403.03206, eq. 23).
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise InputError(f"RectifiedFlow shift {self.shift} must be positive")

    def alpha(self, t: Tensor) -> Tensor:
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.shift * t / (1 + (self.shift - 1) * t)

    def time(self, log_snr: Tensor) -> Tensor:
        # sigma / alpha = shift t / (1 - t) = e^(-l/2)
        return torch.sigmoid(-0.5 * log_snr - math.log(self.shift))

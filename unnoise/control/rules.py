"""Rules of guidance: how what is said with the condition, D_c, and what is said away from it, D_u, become one prediction.

    Linear      D_w = D_u + w (D_c - D_u)                            Ho & Salimans 2022 (2207.12598, eq. 6, with their w + 1 as w)

    Projected   d = D_c - D_u + beta d_last                          adaptive projected guidance, APG: Sadat et al. 2024
                d <- d min(1, r / |d|)                               (2410.02416, algorithm 1; their r is r sqrt(D) here)
                D_w = D_c + (w - 1) (d_perp + eta d_par)
                d_par = D_c <d, D_c> / |D_c|^2,  d_perp = d - d_par

    ZeroStar    v_w = s v_u + w (v_c - s v_u)                        CFG-Zero*: Fan et al. 2025 (2503.18886)
                s = <v_c, v_u> / |v_u|^2 = argmin |v_c - s v_u|
                v_w = 0 at times t > 1 - zero_init

Every inner product and norm is of one sample. v = dx_t/dt is the velocity of the Gaussian path: x_0 = c_skip x_t + c_out v (see
`preconditioning`), so D - c_skip x_t stands for v, up to a factor that s does not know. All rules give D_c where w = 1, whatever
their settings. Linear serves every kind of prediction; the others have a geometry and serve means: of data in several fields they
treat the Gaussian ones, and combine the rest linearly.

The momentum beta d_last is a memory of one walk from noise to data: `start` begins one. It has one term for every time at which
a sample is guided, so a solver that asks twice at one time (Heun's corrector, then its next step) does not count it twice; when
time rises again (restart, a second walk) the sample begins anew.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.preconditioning import Velocity
from unnoise.core.predictions import Fields, Mean, Prediction
from unnoise.core.processes import Gaussian, Process, Product
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.state import State, expand, fields_of
from unnoise.samplers.registry import find

Combine = Callable[[Prediction, Prediction, Tensor, State, Tensor], Prediction]
"""(D_c, D_u, w (B,), x_t, t (B,)) -> D_w."""


class Rule(ABC):
    """A frozen dataclass."""

    @abstractmethod
    def start(self, process: Process) -> Combine:
        """The combination, for one walk. Raises InputError for a process that the rule has no meaning for."""


def linear(towards: Prediction, away: Prediction, w: Tensor, x_t: State, t: Tensor) -> Prediction:
    """Counted from the conditional end, so that the scale 1 gives it back bit by bit."""
    return towards.lerp(away, lambda a: expand(1 - w, a))


@dataclass(frozen=True)
class Linear(Rule):
    def start(self, process: Process) -> Combine:
        return linear


@dataclass(frozen=True)
class Projected(Rule):
    """parallel: eta, the share kept of the part along D_c, which mostly saturates. momentum: beta in (-1, 1), negative to push
    away from where guidance pushed before. norm: r, the largest root mean square of a push; the paper's 2.5 to 15 for 16k to 65k
    numbers a sample are 0.02 to 0.06 here. Projected(1, 0, inf) is Linear.
    """

    parallel: float = 0.0
    momentum: float = 0.0
    norm: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.parallel <= 1:
            raise InputError(f"projected guidance: parallel {self.parallel} must lie in [0, 1]")
        if not -1 < self.momentum < 1:
            raise InputError(f"projected guidance: momentum {self.momentum} must lie between -1 and 1; -0.5 is usual")
        if not self.norm > 0:
            raise InputError(f"projected guidance: norm {self.norm} must be positive; it is a root mean square, 0.06 is usual")

    def start(self, process: Process) -> Combine:
        return _on_means(process, self, self._start)

    def _start(self, process: Gaussian) -> Combine:
        momentum = _Momentum(self.momentum)

        def combine(towards: Prediction, away: Prediction, w: Tensor, x_t: State, t: Tensor) -> Mean:
            x0 = mean(towards)
            d = momentum(x0 - mean(away), t, w != 1)
            size = d.flatten(1).square().mean(1).sqrt().clamp(min=1e-30)
            d = d * expand((self.norm / size).clamp(max=1), d)
            along = expand(_inner(d, x0) / _inner(x0, x0).clamp(min=1e-30), x0) * x0
            return Mean(x0 + expand(w - 1, x0) * (d + (self.parallel - 1) * along))

        return combine


class _Momentum:
    """The sum d + beta d_last of one walk, sample by sample."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.t = self.last = self.now = torch.zeros(0)

    def __call__(self, d: Tensor, t: Tensor, acts: Tensor) -> Tensor:
        """d (B, ...) at times t (B,); samples that are not guided (acts (B,) False) neither add a term nor forget."""
        if self.beta == 0:
            return d
        if self.now.shape != d.shape:
            self.t, self.last, self.now = torch.full_like(t, -math.inf), torch.zeros_like(d), torch.zeros_like(d)
        falls, rises = (expand(c & acts, d).bool() for c in (t < self.t, t > self.t))
        self.last = torch.where(falls, self.now, self.last.masked_fill(rises, 0))
        total = d + self.beta * self.last
        self.now = torch.where(expand(acts, d).bool(), total.detach(), self.now)
        self.t = torch.where(acts, t, self.t)
        return total


@dataclass(frozen=True)
class ZeroStar(Rule):
    """zero_init: for so long at the start of the walk, in time, nothing moves; 0.04 is one step of 25 equal ones."""

    zero_init: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.zero_init < 1:
            raise InputError(f"CFG-Zero*: zero_init {self.zero_init} must lie in [0, 1): a share of the walk; 0.04 is usual")

    def start(self, process: Process) -> Combine:
        return _on_means(process, self, self._start)

    def _start(self, process: Gaussian) -> Combine:
        def combine(towards: Prediction, away: Prediction, w: Tensor, x_t: State, t: Tensor) -> Mean:
            x = tensor(x_t)
            at_rest = expand(Velocity().skip_out(process.schedule, t)[0], x) * x  # what D is where v = 0
            v_c, v_u = mean(towards) - at_rest, mean(away) - at_rest
            s_v_u = expand(_inner(v_c, v_u) / _inner(v_u, v_u).clamp(min=1e-30), x) * v_u
            v_w = s_v_u + expand(w, x) * (v_c - s_v_u)
            return Mean(at_rest + v_w * expand(t <= 1 - self.zero_init, x))

        return combine


RULES: Mapping[str, Rule] = MappingProxyType(
    {"linear": Linear(), "apg": Projected(momentum=-0.5, norm=0.06), "cfg-zero": ZeroStar(zero_init=0.04)}
)
"""The rules by name, with their papers' settings."""


def find_rule(name: str) -> Rule:
    """The rule of that name. Raises InputError, with the nearest names, if there is none."""
    return find("guidance rule", name, RULES)


def rule_name(rule: Rule) -> str:
    """Its name, or with settings of its own all of it."""
    return next((name for name, r in RULES.items() if r == rule), str(rule))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of every sample: (B,)."""
    return (a * b).flatten(1).sum(1)


def _on_means(process: Process, rule: Rule, start: Callable[[Gaussian], Combine]) -> Combine:
    """The combination for a Gaussian process, or for those fields of a product that are Gaussian."""
    if isinstance(process, Gaussian):
        return start(process)
    parts = process.fields if isinstance(process, Product) else {}
    if not any(isinstance(p, Gaussian) for p in parts.values()):
        raise InputError(f"{rule} combines means of continuous data; this process is {type(process).__name__}: use Linear")
    of = {k: start(p) if isinstance(p, Gaussian) else linear for k, p in parts.items()}

    def combine(towards: Prediction, away: Prediction, w: Tensor, x_t: State, t: Tensor) -> Fields:
        if not isinstance(towards, Fields) or not isinstance(away, Fields):
            raise InputError(f"a product of processes needs predictions of its fields, not {type(towards).__name__}")
        x = fields_of(x_t)
        return Fields({k: of[k](p, away.fields[k], w, x[k], t) for k, p in towards.fields.items()})

    return combine

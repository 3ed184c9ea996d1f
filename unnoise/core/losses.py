"""Losses: how far a prediction is from the data that x_t came from, for each sample, averaged over its dimensions.

Gaussian     w(t) |x_0 - x0_hat|^2; see `weights`.
categorical  cross-entropy, or the continuous-time bound on -log p(x_0): the reverse jump rates given x_0 are
             R(y | x_0) = Q(y -> x_t) q(y | x_0) / q(x_t | x_0), the denoiser's R_hat are their mean under its p(x_0 | x_t), and the
             bound is E sum over y != x_t of  R_hat(y) - R(y) + R(y) log(R(y) / R_hat(y))   (Campbell et al. 2022, 2205.14987).
             Masked: only the masked have rates, and it becomes -alpha' / (1 - alpha) times their cross-entropy (Sahoo et al. 2024,
             MDLM, 2406.07524). Uniform: Q(y -> x) = beta / K for y != x, with beta = -alpha' / alpha.
torus        denoising score matching: the way back that a denoiser should expect is the mean over the turns k that the noise
             may have made, sum_k p(k | x_t, x_0) d_k = sigma^2 grad log q(x_t | x_0) (Jing et al. 2022, 2206.01729), so
             |v - way|^2 / sigma^2 is the error of sigma times the score.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from unnoise.core.errors import InputError
from unnoise.core.predictions import Fields, Logits, Prediction, Tangent
from unnoise.core.processes import Masked, Process, Product, Torus, UniformCategorical
from unnoise.core.processes.gaussian import gaussian, mean, tensor
from unnoise.core.state import State, expand, over_dimensions
from unnoise.core.weights import Simple, Weight


class Loss(ABC):
    """A frozen dataclass."""

    @abstractmethod
    def __call__(self, process: Process, said: Prediction, x_0: State, x_t: State, t: Tensor) -> Tensor:
        """What was said about x_t (B, ...) at times t (B,), against the truth x_0: (B,) float32, averaged over dimensions."""


@dataclass(frozen=True)
class SquaredError(Loss):
    """For a Gaussian process."""

    weight: Weight = Simple()

    def __call__(self, process: Process, said: Prediction, x_0: State, x_t: State, t: Tensor) -> Tensor:
        weight = self.weight(gaussian(process, "SquaredError").schedule, t)
        error = (mean(said).float() - tensor(x_0).float()) ** 2
        return weight.float() * over_dimensions(error)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Plain cross-entropy: of the masked positions for a masked process, of all positions for a uniform one."""

    def __call__(self, process: Process, said: Prediction, x_0: State, x_t: State, t: Tensor) -> Tensor:
        entropy = _cross_entropy(said, tensor(x_0))
        if isinstance(process, Masked):
            return over_dimensions(torch.where(tensor(x_t) == process.largest, entropy, 0))
        if isinstance(process, UniformCategorical):
            return over_dimensions(entropy)
        raise InputError(f"CrossEntropy is for a categorical process; this one is {type(process).__name__}")


@dataclass(frozen=True)
class CategoricalBound(Loss):
    """With uniform times, a bound on -log p(x_0) in nats per dimension; tight for an exact denoiser of independent positions."""

    def __call__(self, process: Process, said: Prediction, x_0: State, x_t: State, t: Tensor) -> Tensor:
        x_0, x_t = tensor(x_0), tensor(x_t)
        if isinstance(process, Masked):
            alpha, d_alpha = process.schedule.alpha(t), process.schedule.d_alpha(t)
            entropy = torch.where(x_t == process.largest, _cross_entropy(said, x_0), 0)
            return (-d_alpha / (1 - alpha)).float() * over_dimensions(entropy)
        if isinstance(process, UniformCategorical):
            return over_dimensions(_uniform_bound(process, _logits(said), x_0, x_t, t)).float()
        raise InputError(f"CategoricalBound is for a categorical process; this one is {type(process).__name__}")


def _uniform_bound(process: UniformCategorical, logits: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The bound's integrand at every position: (B, ..., D)."""
    alpha, d_alpha = process.schedule.alpha(t), process.schedule.d_alpha(t)
    a = expand(alpha, x_t.double())
    size = torch.tensor(process.sizes, device=x_t.device)
    lost = (1 - a) / size  # q(y | x_0) of any one y != x_0
    others = process.allowed.to(x_t.device) & (one_hot(x_t, process.largest) == 0)  # the y to which x_t can jump back

    # q(y | k) / q(x_t | k) = 1 for k not in {x_t, y}; `up` = q(k | k) / lost for k = y; 1 / up for k = x_t
    up = (1 + a / lost)[..., None]
    p = logits.double().softmax(-1)
    p_here = p.gather(-1, x_t[..., None])
    said = 1 + p * (up - 1) + p_here * (1 / up - 1)
    true = torch.where((x_0 == x_t)[..., None], 1 / up, torch.where(one_hot(x_0, process.largest) == 1, up, 1))
    divergence = torch.where(others, said - true + true * (true / said).log(), 0).sum(-1)
    return expand(-d_alpha / alpha, a) / size * divergence


@dataclass(frozen=True)
class TangentError(Loss):
    """For a torus: the error of sigma times the score."""

    def __call__(self, process: Process, said: Prediction, x_0: State, x_t: State, t: Tensor) -> Tensor:
        if not isinstance(process, Torus) or not isinstance(said, Tangent):
            raise InputError(f"TangentError is for a torus and a Tangent, not {type(process).__name__} and {type(said).__name__}")
        d, log_p = process.turns(tensor(x_t), tensor(x_0), t)
        way = (log_p.exp() * d).sum(-1)
        error = ((said.v.double() - way) / expand(process.schedule.sigma(t).clamp(min=1e-5), way)) ** 2
        return over_dimensions(error).float()


@dataclass(frozen=True)
class FieldLosses(Loss):
    """For a product: a loss and its scale for every field; their weighted sum."""

    fields: Mapping[str, tuple[Loss, float]]

    def each(self, process: Process, said: Prediction, x_0: State, x_t: State, t: Tensor) -> dict[str, Tensor]:
        """The losses (B,) of the fields, before scaling."""
        if not isinstance(process, Product) or set(process.fields) != set(self.fields):
            raise InputError(f"FieldLosses has {sorted(self.fields)}; it needs a Product of the same fields, not {process}")
        if not isinstance(said, Fields) or isinstance(x_0, Tensor) or isinstance(x_t, Tensor):
            raise InputError("FieldLosses needs data and a prediction of several fields")
        return {k: loss(process.fields[k], said.fields[k], x_0[k], x_t[k], t) for k, (loss, _) in self.fields.items()}

    def __call__(self, process: Process, said: Prediction, x_0: State, x_t: State, t: Tensor) -> Tensor:
        losses = self.each(process, said, x_0, x_t, t)
        return torch.stack([scale * losses[k] for k, (_, scale) in self.fields.items()]).sum(0)


def _logits(said: Prediction) -> Tensor:
    if not isinstance(said, Logits):
        raise InputError(f"a categorical process needs a denoiser that predicts Logits; this one predicts {type(said).__name__}")
    return said.logits


def _cross_entropy(said: Prediction, x_0: Tensor) -> Tensor:
    """-log p(x_0), position by position."""
    return -_logits(said).float().log_softmax(-1).gather(-1, x_0[..., None])[..., 0]

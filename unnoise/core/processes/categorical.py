"""Categorical processes: every position keeps its category with probability alpha(t), or has lost it.

Masked (absorbing): a lost category is the mask. Austin et al. 2021 (2107.03006); Sahoo et al. 2024 (MDLM, 2406.07524).
Uniform: a lost category is drawn uniformly. Hoogeboom et al. 2021 (2102.05379); Austin et al. 2021.
Positions are independent given x_0. The number of categories may differ along the last axis of the data (columns of a table).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from unnoise.core.errors import InputError
from unnoise.core.predictions import Logits, Prediction
from unnoise.core.processes.base import Corrupted, Process
from unnoise.core.processes.gaussian import tensor, tensor_shape
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow, Schedule
from unnoise.core.state import Shape, State, expand


class Categorical(Process, ABC):
    """Data (B, ..., D) of int64 categories 0 ... sizes[d]-1; `sizes` has one entry for all positions, or D entries.

    `schedule.alpha(t)` is the probability that a category survives until t.
    """

    sizes: tuple[int, ...]
    schedule: Schedule

    @property
    def largest(self) -> int:
        """K, the number of categories of the largest position."""
        return max(self.sizes)

    @cached_property
    def allowed(self) -> Tensor:
        """(D or 1, K) bool: which categories each position has."""
        return torch.arange(self.largest) < torch.tensor(self.sizes)[:, None]

    @abstractmethod
    def tokens(self) -> int:
        """How many symbols x_t can hold: K, or K + 1 with a mask."""

    def back(self, x_t: State, said: Prediction, t: Tensor, s: Tensor, eta: float, rng: Streams) -> Tensor:
        return tensor(self.bridge(x_t, draw(said, rng), t, s, eta, rng))


@dataclass(frozen=True)
class Masked(Categorical):
    """A lost category is the mask, symbol K = max(sizes). Exactly alpha(1) = 0 is needed: every position ends as mask."""

    sizes: tuple[int, ...]
    schedule: Schedule = RectifiedFlow()

    def tokens(self) -> int:
        return self.largest + 1

    def prior(self, shape: Shape, rng: Streams, device: torch.device | str = "cpu") -> Tensor:
        return torch.full((len(rng), *tensor_shape(shape)), self.largest, device=device)

    def corrupt(self, x: State, t: Tensor, rng: Streams) -> Corrupted:
        x = tensor(x)
        lost = rng.uniform("noise", x.shape[1:], device=x.device) >= expand(self.schedule.alpha(t), x.float())
        return Corrupted(x.masked_fill(lost, self.largest), lost)

    def bridge(self, x_t: State, x_0: State, t: Tensor, s: Tensor, eta: float, rng: Streams) -> Tensor:
        """A masked position is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t) (MDLM, eq. 6), for every eta."""
        x_t, x_0 = tensor(x_t), tensor(x_0)
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        p = ((alpha_s - alpha_t) / (1 - alpha_t)).clamp(0, 1)
        shown = rng.uniform("bridge", x_t.shape[1:], device=x_t.device) < expand(p, x_t.float())
        return torch.where((x_t == self.largest) & shown, x_0, x_t)


@dataclass(frozen=True)
class UniformCategorical(Categorical):
    """A lost category is drawn uniformly from the position's own categories."""

    sizes: tuple[int, ...]
    schedule: Schedule = RectifiedFlow()

    def tokens(self) -> int:
        return self.largest

    def _uniform(self, name: str, shape: tuple[int, ...], rng: Streams, device: torch.device | str) -> Tensor:
        k = torch.tensor(self.sizes, device=device)
        return (rng.uniform(name, shape, dtype=torch.float64, device=device) * k).long()

    def prior(self, shape: Shape, rng: Streams, device: torch.device | str = "cpu") -> Tensor:
        return self._uniform("prior", tensor_shape(shape), rng, device)

    def corrupt(self, x: State, t: Tensor, rng: Streams) -> Corrupted:
        x = tensor(x)
        lost = rng.uniform("noise", x.shape[1:], device=x.device) >= expand(self.schedule.alpha(t), x.float())
        other = self._uniform("category", tuple(x.shape[1:]), rng, x.device)
        return Corrupted(torch.where(lost, other, x), lost)

    def bridge(self, x_t: State, x_0: State, t: Tensor, s: Tensor, eta: float, rng: Streams) -> Tensor:
        """With probability eta the Markov chain's posterior, else the bridge that keeps x_t most often.

        Posterior (Austin et al. 2021, eq. 3): q(x_s | x_t, x_0) ~ q(x_t | x_s) q(x_s | x_0), elementwise.
        Keeping (Song et al. 2020, DDIM, appendix A, sigma at its largest): x_t with probability r = (1 - alpha_s) /
        (1 - alpha_t), else x_0. Both carry q(x_t | x_0) to q(x_s | x_0), and so does their mixture.
        """
        x_t, x_0 = tensor(x_t), tensor(x_0)
        alpha_t, alpha_s = self.schedule.alpha(t), self.schedule.alpha(s)
        keep = ((1 - alpha_s) / (1 - alpha_t)).clamp(0, 1)
        u = rng.uniform("bridge", x_t.shape[1:], dtype=torch.float64, device=x_t.device)
        least = torch.where(u < expand(keep, u), x_t, x_0)
        if eta <= 0:
            return least
        allowed, k = self.allowed.to(x_t.device), torch.tensor(self.sizes, device=x_t.device)[:, None]
        uniform = allowed.double() / k  # (D or 1, K)
        a_s = expand(alpha_s, u)[..., None]
        a_ts = expand(torch.where(alpha_s > 0, alpha_t / alpha_s, 0), u)[..., None]
        near = a_ts * torch.nn.functional.one_hot(x_t, self.largest) + (1 - a_ts) * uniform
        far = a_s * torch.nn.functional.one_hot(x_0, self.largest) + (1 - a_s) * uniform
        posterior = inverse_cdf(near * far, rng.uniform("posterior", x_t.shape[1:], dtype=torch.float64, device=x_t.device))
        chain = rng.uniform("eta", x_t.shape[1:], device=x_t.device) < eta
        return torch.where(chain, posterior, least)


def inverse_cdf(p: Tensor, u: Tensor) -> Tensor:
    """Categories (...) drawn with probabilities proportional to p (..., K) from uniforms u (...)."""
    c = p.double().cumsum(-1)
    return (c <= (u * c[..., -1])[..., None]).sum(-1).clamp(max=p.shape[-1] - 1)


def draw(said: Prediction, rng: Streams) -> Tensor:
    """x_0 drawn from a categorical denoiser's prediction, position by position: (B, ...)."""
    if not isinstance(said, Logits):
        raise InputError(f"a categorical process needs a denoiser that predicts Logits; this one predicts {type(said).__name__}")
    p = said.logits.double().softmax(-1)
    return inverse_cdf(p, rng.uniform("draw", p.shape[1:-1], dtype=torch.float64, device=p.device))

"""Predictions: what a denoiser says about the data, given x_t. They combine linearly, which is all that guidance needs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


class Prediction(ABC):
    """A frozen dataclass of tensors with a leading batch axis."""

    @abstractmethod
    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        """f applied tensor by tensor to this prediction and to others of the same kind."""

    def lerp(self, other: Self, w: Callable[[Tensor], Tensor] | float) -> Self:
        """self + w (other - self); w is a number, or gives (B, 1, ..., 1) for each tensor: one weight a sample."""

        def combine(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(a.isneginf(), a, a + (w(a) if callable(w) else w) * (b - a))  # an impossible category stays so

        return self.map(combine, other)

    def __getitem__(self, rows: slice) -> Self:
        return self.map(lambda a: a[rows])


@dataclass(frozen=True)
class Mean(Prediction):
    """E[x_0 | x_t]: (B, ...)."""

    x0: Tensor

    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        return replace(self, x0=f(self.x0, *(o.x0 for o in others)))


@dataclass(frozen=True)
class Logits(Prediction):
    """log p(x_0 = k | x_t), up to a constant, for every position: (B, ..., K); -inf where a category cannot be."""

    logits: Tensor

    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        return replace(self, logits=f(self.logits, *(o.logits for o in others)))


@dataclass(frozen=True)
class Tangent(Prediction):
    """The expected way from x_t back to x_0, in the tangent space at x_t: (B, ...).

    On the torus it is E[x_0 - x_t | x_t] along the path that the noise took (not wrapped) = sigma(t)^2 times the score.
    """

    v: Tensor

    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        return replace(self, v=f(self.v, *(o.v for o in others)))


@dataclass(frozen=True)
class Fields(Prediction):
    """One prediction a field, for data of several fields."""

    fields: Mapping[str, Prediction]

    def map(self, f: Callable[..., Tensor], *others: Self) -> Self:
        return replace(self, fields={k: p.map(f, *(o.fields[k] for o in others)) for k, p in self.fields.items()})

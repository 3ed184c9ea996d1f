"""Conditioners that read the prompt language: they are given what a prompt says with its weights, not only a text."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from unnoise.core.codec import Conditioner
from unnoise.core.state import Cond
from unnoise.modalities.words.syntax import Said


class Emphatic(Conditioner, ABC):
    """Words of more or less weight. A raw text, such as a training caption, is taken as it stands, brackets and all."""

    @abstractmethod
    def prepare_said(self, said: Sequence[Said | None]) -> Cond:
        """As `prepare`, for what prompts say at one time; None for "told nothing"."""

    def prepare_away(self, said: Sequence[Said | None]) -> Cond:
        """As `prepare_said`, for what guidance leads away from: nothing, or a negative prompt."""
        return self.prepare_said(said)

    def prepare(self, raw: Sequence[str | None]) -> Cond:
        return self.prepare_said([None if r is None else Said.plain(r) for r in raw])


class EmphaticConfig(ABC):
    """A frozen dataclass beside such a conditioner."""

    @abstractmethod
    def build(self) -> Emphatic: ...


def scaled(z: Tensor, weights: Tensor) -> Tensor:
    """Every token times its weight: z (..., L, D), weights (..., L)."""
    return z * weights[..., None]


def scaled_keeping_mean(z: Tensor, weights: Tensor) -> Tensor:
    """z' = w z mean(z) / mean(w z), means over a whole window (L, D), as the web UI does for CLIP (sd_emphasis.py, "Original").

    It makes sense where the mean is far from zero: CLIP's, whose start token is large. Weights that are all 1 change nothing.
    """
    more = scaled(z, weights)
    ratio = z.mean((-2, -1), keepdim=True) / more.mean((-2, -1), keepdim=True)
    return torch.where((weights == 1).all(-1)[..., None, None], z, more * ratio)


def padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sequences (L_i, ...) of several lengths -> (B, L, ...) with zeros behind, and the mask (B, L) of what is theirs."""
    longest = max((len(r) for r in rows), default=0)
    mask = torch.arange(longest)[None] < torch.tensor([len(r) for r in rows])[:, None]
    return torch.stack([pad(r, (0, 0) * (r.ndim - 1) + (0, longest - len(r))) for r in rows]), mask

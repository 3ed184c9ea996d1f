"""Guidance by a weaker version of the network itself, where no weaker model was trained: Denoiser -> Denoiser.

    D <- D_weak + w (D - D_weak)           autoguidance (Karras et al. 2024, 2406.02507) with, as D_weak,

    Internal            the network's middle head     internal guidance (2512.24176), in one call
    PerturbedAttention  attention that is identity    PAG (2403.17377; their scale s is w - 1), in two calls
    SmoothedAttention   attention without position    SEG (2408.00760; their scale is w - 1), in two calls

It acts on the denoiser, condition or not. Classifier-free guidance goes around it, so that both of its sides are sharpened, in
twice the calls. PAG's and SEG's papers sharpen the side with the condition alone: at guidance g ours has beside what
theirs has (w - 1) (g - 1) (a_c - a_u), a = D - D_weak on the side with the condition and on the other.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from unnoise.control.guidance import Interval, bind, check, guided
from unnoise.control.perturbed import Attend, averaged, identity, perturbed
from unnoise.core.denoisers import Denoiser, two_headed
from unnoise.core.errors import InputError
from unnoise.core.predictions import Prediction
from unnoise.core.state import Cond, State
from unnoise.samplers.registry import find


@dataclass(frozen=True)
class SelfGuidance(ABC):
    """scale: w, 1 for none. interval: the times in which it acts."""

    scale: float = 2.0
    interval: Interval = (0.0, 1.0)

    @abstractmethod
    def sharpen(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser, with the same weights. Raises InputError where the network has no such weaker version."""

    def __post_init__(self) -> None:
        check(self.scale, self.interval)


@dataclass(frozen=True)
class Internal(SelfGuidance):
    """For networks trained with a middle head."""

    scale: float = 1.5

    def sharpen(self, denoiser: Denoiser) -> Denoiser:
        return _InternallyGuided(denoiser, self)


@dataclass(frozen=True)
class PerturbedAttention(SelfGuidance):
    """For networks with self-attention. blocks: which to perturb; none given: the middle one that has it."""

    scale: float = 4.0
    blocks: tuple[int, ...] = ()

    def sharpen(self, denoiser: Denoiser) -> Denoiser:
        return _AttentionGuided(denoiser, self, self.blocks, identity)


@dataclass(frozen=True)
class SmoothedAttention(SelfGuidance):
    """For networks with self-attention. blocks: which to smooth; none given: the middle one that has it."""

    scale: float = 4.0
    blocks: tuple[int, ...] = ()

    def sharpen(self, denoiser: Denoiser) -> Denoiser:
        return _AttentionGuided(denoiser, self, self.blocks, averaged)


SELF_GUIDANCE: Mapping[str, SelfGuidance] = MappingProxyType(
    {"internal": Internal(), "pag": PerturbedAttention(), "seg": SmoothedAttention()}
)
"""By name, with usual scales."""


def find_self_guidance(name: str) -> SelfGuidance:
    """The one of that name. Raises InputError, with the nearest names, if there is none."""
    return find("self-guidance", name, SELF_GUIDANCE)


def self_guidance_settings(how: SelfGuidance | None) -> dict[str, Any]:
    """What a sample says of how it was made; also the options of the command line by name."""
    name = next((n for n, usual in SELF_GUIDANCE.items() if type(how) is type(usual)), None)
    of = {} if how is None else {f.name: getattr(how, f.name) for f in fields(how)}
    return {"inner": name, "inner_scale": of.get("scale"), "inner_interval": of.get("interval"), "blocks": of.get("blocks")}


def chosen(
    usual: SelfGuidance | None,
    inner: str | None,
    inner_scale: float | None,
    inner_interval: Interval | None,
    blocks: tuple[int, ...] | None,
) -> SelfGuidance | None:
    """The usual one, or that of the name `inner`, with the settings that are given. Raises InputError for what it does not have."""
    how = usual if inner is None else find_self_guidance(inner)
    given: dict[str, Any] = {"scale": inner_scale, "interval": inner_interval, "blocks": blocks}
    given = {k: v for k, v in given.items() if v is not None}
    if how is None and given:
        raise InputError(f"self-guidance has settings but no name: say which ({', '.join(SELF_GUIDANCE)})")
    if blocks and isinstance(how, Internal):
        raise InputError("internal guidance has a middle head, no blocks to choose")
    return how if how is None else replace(how, **given)


class _InternallyGuided(Denoiser):
    def __init__(self, denoiser: Denoiser, how: Internal) -> None:
        super().__init__()
        self.process, self.denoiser, self.how = denoiser.process, two_headed(denoiser), how

    def forward(self, x_t: State, t: Tensor, cond: Cond) -> Prediction:
        out, middle = self.denoiser.both(x_t, t, cond)
        return guided(lambda x_t, t: out, lambda x_t, t: middle, self.how.scale, self.how.interval)(x_t, t)


class _AttentionGuided(Denoiser):
    def __init__(self, denoiser: Denoiser, how: SelfGuidance, blocks: tuple[int, ...], replacement: Attend) -> None:
        super().__init__()
        self.process, self.denoiser, self.how = denoiser.process, denoiser, how
        self.weaker = perturbed(denoiser, blocks, replacement)

    def forward(self, x_t: State, t: Tensor, cond: Cond) -> Prediction:
        return guided(bind(self.denoiser, cond), bind(self.weaker, cond), self.how.scale, self.how.interval)(x_t, t)

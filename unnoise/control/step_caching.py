"""Step caching: a network's deep features are computed at some of its calls, and forecast at the others. For any sampler.

    network = leave(e, F),   F = deep(e),   e = enter(x, noise_level, cond)                             `networks.splitting`
    what is kept is G = F - base(e): what a transformer's blocks add to its patches; F itself in a U-Net

Between computations G is the polynomial in the noise level that the network is told (its c_noise: log-SNR / 4, or an open
checkpoint's timestep) through the last of them, at u_0, u_1, ..., u_m, the newest first:

    G(u) = sum_j w_j(u) G(u_j),   w_j(u) = prod_{i != j} (u - u_i) / (u_j - u_i)

Networks are smooth in what they are told, embeddings being functions of it: in t itself, whose steps shrink by a factor each where
log-SNR moves evenly, forecasts reach twice too far.

    m = 0   G as it was: DeepCache in U-Nets (Ma et al. 2023, 2312.00858), TeaCache's residual in transformers (2411.19108)
    m > 0   a forecast: TaylorSeer (Liu et al. 2025, 2503.06923). Its derivatives are backward differences on even steps, and exact
            to degree 1; the polynomial is Newton's form of the same, exact to degree m on the uneven steps of any sampler

When to compute: every n-th call (`Every`), or within a budget (`Within`), as TeaCache does by a fitted law; here the law is the
forecast's own error. At every computation the forecast that would have been made is compared with the truth:

    error = |leave(e, forecast) - leave(e, F)| / |leave(e, F)|,   C = error / prod_j |u - u_j|

and features are computed anew once C prod_j |u - u_j|, with the largest of the last three C, exceeds the budget at the level asked
for. So the budget is of the relative error of what the network says at one call, as estimated from the calls before: it is no
bound, and errors of several calls may add up in the picture.

Every sample decides for itself, so that it comes out the same alone and in any batch. It begins anew when time goes up again beyond
that of the last two calls (restarts, a second walk; not the little that churn goes up within a step), when it is told other words,
and when pictures have another size. Where rows come or go, as guidance begins or ends, the first ones are those that stay.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from unnoise.core.denoisers import Denoiser, NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.predictions import Prediction
from unnoise.core.state import Cond, State, expand
from unnoise.networks.layers import wide
from unnoise.networks.splitting import Entered, Splitting

SAID = ("vector", "tokens", "mask")
"""Entries of a condition that are what a sample is told; adapters' residuals change with every step."""
LOOK_BACK = 3
"""Constants C that are remembered: where a derivative goes through 0, the last one alone would promise too much."""


@dataclass
class Memory:
    """What one walk remembers of its B samples; m + 1 computations of each, the newest first.

    levels: (m + 1, B), nan where there is none. kept: G at these levels, up to m + 1 of (B, ...). newest: (B,) the time of the
    newest; last: (2, B) those of the last two calls. skipped: (B,) calls since the last computation;
    constants: (LOOK_BACK, B) the last C, nan where there is none. told: the condition. shape: of a sample in the network's input.
    """

    shape: torch.Size
    levels: Tensor
    newest: Tensor
    last: Tensor
    skipped: Tensor
    constants: Tensor
    told: Cond
    entries: frozenset[str]
    kept: list[Tensor] = field(default_factory=list)

    @staticmethod
    def empty(order: int, shape: torch.Size, t: Tensor, told: Cond, entries: frozenset[str]) -> "Memory":
        nothing, zero = torch.full_like(t, torch.nan, dtype=torch.float64), torch.zeros_like(t, dtype=torch.int64)
        levels, constants = nothing.repeat(order + 1, 1), nothing.repeat(LOOK_BACK, 1)
        return Memory(shape, levels, nothing, nothing.repeat(2, 1), zero, constants, told, entries)

    def of_rows(self, n: int) -> None:
        """For n samples: the first ones stay, those that come after remember nothing."""
        more, told = max(0, n - len(self.newest)), self.told

        def fitted(x: Tensor, dim: int, nothing: float) -> Tensor:
            x = x.narrow(dim, 0, min(n, x.shape[dim]))
            shape = [more if i == dim else size for i, size in enumerate(x.shape)]
            return torch.cat([x, x.new_full(shape, nothing)], dim) if more else x

        self.levels, self.constants, self.last = (fitted(x, 1, torch.nan) for x in (self.levels, self.constants, self.last))
        self.newest, self.skipped = fitted(self.newest, 0, torch.nan), fitted(self.skipped, 0, 0)
        self.kept, self.told = [fitted(k, 0, 0) for k in self.kept], {k: fitted(v, 0, 0) for k, v in told.items()}

    def forget(self, rows: Tensor) -> None:
        """rows: (B,) bool."""
        self.levels, self.newest = self.levels.masked_fill(rows, torch.nan), self.newest.masked_fill(rows, torch.nan)
        self.constants = self.constants.masked_fill(rows, torch.nan)
        self.skipped = self.skipped.masked_fill(rows, 0)

    def remember(self, rows: Tensor, t: Tensor, level: Tensor, computed: Tensor) -> None:
        """computed (R, ...) of the rows (R,) at times and levels (R,). A second one at the same level replaces the first."""
        again = level == self.levels[0, rows]
        if len(rows) == self.levels.shape[1] and not bool(again.any()):
            self.kept = [computed, *self.kept[: len(self.levels) - 1]]
            self.levels = torch.cat([level[None], self.levels[:-1]])
        else:
            self._replace(rows, rows[~again], level, computed)
        self.newest = self.newest.index_copy(0, rows, t.to(self.newest.dtype))
        self.skipped = self.skipped.index_fill(0, rows, 0)

    def _replace(self, rows: Tensor, pushed: Tensor, level: Tensor, computed: Tensor) -> None:
        if len(self.kept) < len(self.levels):
            self.kept.append(torch.zeros_like(self.kept[-1]))
        for j in range(len(self.kept) - 1, 0, -1):
            self.kept[j] = self.kept[j].index_copy(0, pushed, self.kept[j - 1][pushed])
        self.kept[0] = self.kept[0].index_copy(0, rows, computed)
        self.levels[1:, pushed] = self.levels[:-1, pushed]
        self.levels[0, rows] = level

    def measured(self, rows: Tensor, constant: Tensor) -> None:
        """constant: (R,) of the rows (R,)."""
        self.constants[1:, rows] = self.constants[:-1, rows]
        self.constants[0, rows] = constant

    def forecast(self, level: Tensor) -> Tensor:
        """G at the levels (B,)."""
        if len(self.kept) == 1:
            return self.kept[0]
        w = lagrange(level, self.levels)
        like = self.kept[0]
        return sum((expand(c, k.to(wide(k))) * k.to(wide(k)) for c, k in zip(w, self.kept)), torch.zeros(())).to(like.dtype)

    def distance(self, level: Tensor) -> Tensor:
        """prod_j |u - u_j| over what is remembered: (B,)."""
        return torch.where(self.levels.isnan(), 1, (level - self.levels).abs()).prod(0)

    @property
    def full(self) -> Tensor:
        """(B,): whether all m + 1 are there."""
        return ~self.levels.isnan().any(0)


def lagrange(u: Tensor, levels: Tensor) -> Tensor:
    """w_j(u): u (B,), levels (J, B), nan where there is none -> (J, B), 0 there; they add up to 1."""
    known, one = ~levels.isnan(), torch.eye(len(levels), dtype=torch.bool, device=u.device)[..., None]
    ratio = (u - levels) / (levels[:, None] - levels)  # [j, i]
    return torch.where(known, torch.where(one | ~known, 1, ratio).prod(1), 0)


class When(ABC):
    """When features are computed anew: a frozen dataclass. measures: whether it looks at the constants C."""

    measures: ClassVar[bool]

    @abstractmethod
    def due(self, memory: Memory, level: Tensor) -> Tensor:
        """(B,) bool, of samples that are asked about at noise levels (B,) and remember something."""


@dataclass(frozen=True)
class Every(When):
    """At every n-th call, and at the first ones, until there are m + 1: a course that is not known yet cannot be followed, and
    early on features change the most. 1: nothing is ever forecast."""

    n: int = 3
    measures: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise InputError(f"features computed at every {self.n}-th call: at least 1")

    def due(self, memory: Memory, level: Tensor) -> Tensor:
        return ~memory.full | (memory.skipped + 1 >= self.n)


@dataclass(frozen=True)
class Within(When):
    """Once the estimated relative error of what the network says exceeds `budget`, and after `most` forecasts in any case."""

    budget: float = 0.02
    most: int = 8
    measures: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.budget >= 0 or self.most < 0:
            raise InputError(f"budget {self.budget} and most {self.most} of forecasts: neither may be negative; 0.02 is 2 %")

    def due(self, memory: Memory, level: Tensor) -> Tensor:
        constant = memory.constants.nan_to_num(-torch.inf).amax(0)
        small = (constant >= 0) & (constant * memory.distance(level) <= self.budget)
        return ~small | (memory.skipped >= self.most)


@dataclass(frozen=True)
class StepCaching:
    """order: m, the degree of the forecast, 0 to 4."""

    when: When = Every()
    order: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.order <= 4:
            raise InputError(f"a forecast of order {self.order}: 0 to 4 are meant; 0 reuses, 1 and 2 follow the features' course")


def caching_settings(how: StepCaching | None) -> dict[str, Any]:
    """What a sample says of how it was made; also the options of the command line by name, where those can say it."""
    when = None if how is None else how.when
    every = when.n if isinstance(when, Every) else None
    within = when.budget if isinstance(when, Within) and when == Within(when.budget) else None
    said = every is not None or within is not None
    return {
        "caching": how and str(how), "cache": every, "cache_within": within, "cache_order": how.order if how and said else None,
    }  # fmt: skip


class CachedDenoiser(Denoiser):
    """For one walk, whose samples keep their rows: it remembers. The weights are those of the denoiser.

    asked, computed: how many samples it was asked about, and for how many of them the whole network ran. Raises InputError for a
    denoiser whose network is not in three parts.
    """

    def __init__(self, denoiser: Denoiser, how: StepCaching) -> None:
        super().__init__()
        network = denoiser.network if isinstance(denoiser, NetworkDenoiser) else denoiser
        if not isinstance(denoiser, NetworkDenoiser) or not isinstance(network, Splitting):
            raise InputError(f"a {type(network).__name__} has no deep part of its own whose features could be cached")
        self.process, self.denoiser, self.how = denoiser.process, denoiser, how
        self.network: Splitting = network
        self.memory: Memory | None = None
        self.asked = self.computed = 0

    def forward(self, x_t: State, t: Tensor, cond: Cond) -> Prediction:
        how = self.denoiser.preconditioner.told(cond)
        inputs, noise_level = how.before(self.process, x_t, t)
        if not isinstance(inputs, Tensor):
            raise InputError("step caching is for states of one tensor; this one has several fields")
        return how.after(self.process, self._said(inputs, noise_level, t, cond), x_t, t)

    def _said(self, x: Tensor, noise_level: Tensor, t: Tensor, cond: Cond) -> Tensor:
        memory, network, level = self._memory(x, t, cond), self.network, noise_level.double()
        due = memory.newest.isnan() | self.how.when.due(memory, level)
        rows = due.nonzero()[:, 0]
        memory.skipped = memory.skipped + 1
        self.asked, self.computed = self.asked + len(t), self.computed + len(rows)
        entered = network.enter(x, noise_level, cond)
        guess = None
        if memory.kept and (len(rows) < len(t) or self.how.when.measures):
            guess = network.leave(entered, _above(entered, memory.forecast(level)))
        if guess is not None and len(rows) == 0:
            return guess
        there = entered
        if len(rows) < len(t):
            there = network.enter(x[rows], noise_level[rows], {k: v[rows.to(v.device)] for k, v in cond.items()})
        deep = network.deep(there)
        said = network.leave(there, deep)
        if guess is not None and self.how.when.measures:
            self._measure(memory, rows, level, guess[rows], said)
        memory.remember(rows, t[rows], level[rows], deep if there.base is None else deep - there.base)
        return said if guess is None or len(rows) == len(t) else guess.index_copy(0, rows, said)

    def _memory(self, x: Tensor, t: Tensor, cond: Cond) -> Memory:
        """What is remembered of these samples, those forgotten that begin anew."""
        memory = self.memory
        said = {k: v for k, v in cond.items() if k in SAID}
        if "tokens" in said and "mask" not in said:  # which only words of several lengths need
            said["mask"] = said["tokens"].new_ones(said["tokens"].shape[:2], dtype=torch.bool)
        entries = frozenset([*cond, *said])
        if memory is None or x.shape[1:] != memory.shape or entries != memory.entries:
            memory = self.memory = Memory.empty(self.how.order, x.shape[1:], t, said, entries)
        if len(x) != len(memory.newest):
            memory.of_rows(len(x))
        anew = (t > memory.last).all(0)
        for k, v in said.items():
            anew = anew | _differ(v, memory.told[k])
        if bool(anew.any()):
            memory.forget(anew)
        memory.told = said
        memory.last = torch.stack([t.to(memory.last.dtype), memory.last[0]])
        return memory

    def _measure(self, memory: Memory, rows: Tensor, level: Tensor, guess: Tensor, said: Tensor) -> None:
        """The constants C of samples that could have been forecast, by how far the guess was from what the network says."""
        error = (guess - said).flatten(1).norm(dim=1) / said.flatten(1).norm(dim=1)
        distance = memory.distance(level)[rows]
        fair = memory.full[rows] & (distance > 0)
        memory.measured(rows[fair], error.to(distance.dtype)[fair] / distance[fair])


def _above(entered: Entered, kept: Tensor) -> Tensor:
    return kept if entered.base is None else entered.base + kept


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """(B,) bool, of what samples are told: (B, L, ...) each, which may have been padded with zeros to the longest of other rows."""
    if a.ndim > 1 and a.shape[1] != b.shape[1]:
        longest = max(a.shape[1], b.shape[1])
        a, b = (pad(x, (*[0, 0] * (x.ndim - 2), 0, longest - x.shape[1])) for x in (a, b))
    return (a != b).flatten(1).any(1)

"""How a model is sampled, and what that made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unnoise.control.rules import Linear, Rule
from unnoise.control.self_guidance import SelfGuidance
from unnoise.control.step_caching import StepCaching
from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.processes import Gaussian, Process
from unnoise.core.schedules import RectifiedFlow
from unnoise.core.state import State
from unnoise.samplers.grids import Grid, Walk
from unnoise.samplers.loop import Sampler
from unnoise.samplers.registry import WALKS, Choice, find_grid, find_sampler


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled unless the caller says otherwise.

    steps: sampler steps, at least 1. sampler, grid: names of the samplers' table, or their own kind; grid None takes the sampler's.
    guidance: 1 conditional, 0 unconditional, above 1 exaggerates the prompt. interval: times (low, high] in which guidance acts.
    rescale: 0 none ... 1 full, brings back the spread that guidance inflates. rule: how guidance combines what it is told.
    threshold: a quantile, such as 0.995, of what is kept within the range of pixels; None for none. inner: guidance by a weaker
    version of the network itself; None for none. caching: how deep features are reused or forecast between calls; None for not.
    picture_guidance: of models that change pictures, how closely they keep to them; 1 as they were trained to. true_guidance: of
    models that are told the guidance scale, classifier-free guidance besides, at two calls a step; 1 none.
    """

    steps: int = 25
    sampler: str | Sampler = "dpmpp-2m"
    grid: str | Grid | None = None
    guidance: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    rule: Rule = Linear()
    threshold: float | None = None
    inner: SelfGuidance | None = None
    caching: StepCaching | None = None
    picture_guidance: float = 1.0
    true_guidance: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"steps {self.steps}: a sampler takes whole steps, at least 1; 20 to 50 are usual")
        if not -100 <= self.guidance <= 100:  # false for nan too
            raise InputError(f"guidance {self.guidance} is not a usable scale; 1 is plain conditional, 2 to 7 are usual")
        if not -100 <= self.picture_guidance <= 100:
            raise InputError(f"picture guidance {self.picture_guidance} is not a usable scale; 1.2 to 1.8 are usual")
        if not -100 <= self.true_guidance <= 100:
            raise InputError(f"true guidance {self.true_guidance} is not a usable scale; 1 is none, 1.5 to 4 are usual")
        if not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise InputError(f"guidance interval {self.interval}: two rising times within 0 ... 1, where 0 is data and 1 is noise")
        if not 0 <= self.rescale <= 1:
            raise InputError(f"rescale {self.rescale} is outside 0 ... 1")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise InputError(f"threshold {self.threshold} is a quantile and lies in 0 ... 1; 0.995 is usual")
        if self.caching is not None and self.inner is not None:
            raise InputError(
                f"step caching with {type(self.inner).__name__} guidance, which calls another network: one or the other"
            )
        self.choice()

    def choice(self) -> Choice:
        """The sampler and the times that it walks. InputError for names that are unknown."""
        usual = find_sampler(self.sampler) if isinstance(self.sampler, str) else Choice(self.sampler)
        if self.grid is None:
            return usual
        return usual._replace(grid=find_grid(self.grid) if isinstance(self.grid, str) else self.grid)

    def grid_by(self, sampler: str | Sampler, grid: str | Grid | None = None) -> str | Grid | None:
        """The grid where this sampler is asked for, and this grid or none. Timesteps of an open checkpoint are walked as diffusers'
        class of that sampler walks them; "karras" lies between their first and last."""
        own = self.grid
        if not isinstance(own, Grid) or not isinstance(sampler, str):
            return own if grid is None else grid
        walk = WALKS.get(sampler, Walk())
        if grid is None:
            return own if sampler == self.sampler else own.walked(walk)
        return (grid == "karras" and own.respaced(walk)) or grid

    def named(self) -> dict[str, str | None]:
        """The names of sampler and grid; None for what has none, but is the model's own."""
        return {key: value if isinstance(value, str) else None for key, value in (("sampler", self.sampler), ("grid", self.grid))}


@dataclass(frozen=True)
class Start:
    """Data to begin with in place of noise: it is destroyed to a part, and denoised from there (SDEdit, Meng et al. 2021,
    2108.01073).

    data: a batch as the codec encodes it, one row a sample. strength: the share of the steps that is walked, 1 all.
    """

    data: Any
    strength: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise InputError(f"strength {self.strength}: the share of the steps that is walked lies above 0 and up to 1")

    def times(self, times: Tensor, process: Process | None = None) -> Tensor:
        """Of the times (N + 1,) of all steps, those that are walked: rounded down, on a rectified flow up, as diffusers' pipelines
        of these have it. InputError where that is no step."""
        n = len(times) - 1
        up = isinstance(process, Gaussian) and isinstance(process.schedule, RectifiedFlow)
        steps = n - int(n - n * self.strength) if up else int(n * self.strength)
        if steps < 1:
            raise InputError(f"strength {self.strength} of {len(times) - 1} steps is less than one step: use more of either")
        return times[-1 - steps :]


def check_finite(x: State, first: int = 0) -> None:
    """InputError where the states of samples, counted from `first`, have NaN or infinities: they would be decoded as if they had
    none."""
    parts = [x] if isinstance(x, Tensor) else x.values()
    fine = [part.isfinite().reshape(len(part), math.prod(part.shape[1:])).all(1) for part in parts]
    broken = (~torch.stack(fine).all(0)).nonzero()[:, 0] + first
    if len(broken):
        which = ", ".join(map(str, broken[:5].tolist())) + (" ..." if len(broken) > 5 else "")
        raise InputError(
            f"the network's answers for {len(broken)} samples (number {which}) are not finite: either weights are broken (fetch "
            "the file again), or numbers overflowed; try a lower --guidance, more --steps, and leave --bf16 and --int8 out"
        )


@dataclass(frozen=True)
class Samples:
    """What `sample` made: `data` as the codec decodes it, and for every row what it was made from."""

    data: Any
    prompts: tuple[str | None, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    codec: Codec
    own: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """What else a sample has of its own, by name: one value a row."""

    def __len__(self) -> int:
        return len(self.seeds)

    def meta(self) -> list[dict[str, Any]]:
        """One row a sample: its prompt, its own seed, what else is its own, and the settings."""
        each = {"prompt": self.prompts, "sample_seed": self.seeds, **self.own}
        return [{**{name: values[i] for name, values in each.items()}, **self.settings} for i in range(len(self))]

    def save(self, out: str | Path) -> list[Path]:
        """Write the samples, and a sheet that shows them, into the folder `out`; returns the files."""
        Path(out).mkdir(parents=True, exist_ok=True)
        return self.codec.write(self.data, Path(out), self.meta())

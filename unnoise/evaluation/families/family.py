"""What all families of generative models have in common, so that one can be compared with another: how big, how dear, how sampled.

A family makes a `Contender`, a training task that can also sample. Its size is one whole number, searched for so that as many
parameters are trained as in the model it is compared with; its steps follow from the compute it may use:

    steps of a stage = share of the stage * budget in FLOPs / FLOPs of one step, forward and backward
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import one_hot
from torch.utils.flop_counter import FlopCounterMode

from unnoise.core.codec import Codec, Conditioner, UnconditionalConfig
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.modalities.conditioning import LabelsConfig
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.networks.gan import PictureShape
from unnoise.networks.unfilled import unfilled
from unnoise.training.config import AdamWConfig, LinearDecay, TrainConfig
from unnoise.training.data import Batch, DataSet
from unnoise.training.task import Task


@dataclass(frozen=True)
class Subject:
    """What is to be learned. classes: what samples can be asked for; empty: nothing."""

    codec: PixelsConfig | TableCodecConfig
    classes: tuple[str, ...] = ()

    @property
    def picture(self) -> PictureShape | None:
        """The shape of pictures; None for tables."""
        c = self.codec
        return PictureShape(c.channels, c.height, c.width) if isinstance(c, PixelsConfig) else None

    def conditioner(self, dim: int) -> Conditioner:
        """Classes as learned vectors of `dim` numbers."""
        return LabelsConfig(self.classes, dim).build() if self.classes else UnconditionalConfig().build()

    def told(self, dim: int) -> int:
        """The width of what a network is told: dim, or 0 where there are no classes."""
        return dim if self.classes else 0


class Contender(Task):
    """A model in training, and the same as a generator."""

    shares: tuple[float, ...] = (1.0,)
    """The part of the compute that each stage of training gets."""

    def enter(self, stage: int) -> None:
        """Called before a stage begins: what is trained in it must ask for gradients, and nothing else."""

    @abstractmethod
    def told(self) -> Conditioner:
        """What prepares classes for it."""

    @abstractmethod
    def calls(self) -> int:
        """Network calls that a sample takes, one after the other, as it is usually sampled."""

    @abstractmethod
    def sampled(self) -> Sequence[nn.Module]:
        """What a sample needs; the rest is for training alone."""

    @abstractmethod
    def sample(self, prompts: Sequence[str | None], seeds: Sequence[int], guidance: float | None, calls: int | None) -> Any:
        """Decoded rows, one a prompt, each decided by its own seed.

        InputError for a guidance scale or a number of network calls that this family does not have (None: its usual ones).
        """


class OneShot(Contender):
    """A contender that knows neither guidance nor a choice of steps."""

    codec: Codec
    conditioner: Conditioner
    family: str

    def told(self) -> Conditioner:
        return self.conditioner

    @abstractmethod
    def states(self, cond: Mapping[str, Tensor], rng: Streams) -> State:
        """One state for every stream."""

    @torch.no_grad()
    def sample(self, prompts: Sequence[str | None], seeds: Sequence[int], guidance: float | None, calls: int | None) -> Any:
        if guidance is not None and guidance != 1:
            raise InputError(
                f"guidance {guidance}: {self.family} was not trained to be guided; it follows what is asked at 1 alone"
            )
        if calls is not None and calls != self.calls():
            raise InputError(f"{calls} network calls: {self.family} takes {self.calls()}, no more and no fewer")
        self.eval()
        device = next(self.parameters()).device
        prepared = {k: v.to(device) for k, v in self.conditioner.prepare(prompts).items()}
        return self.codec.decode(self.states(prepared, Streams.each(seeds).scoped("sample")))


def usual_training(optimiser: AdamWConfig, steps: int, batch: int, seed: int) -> TrainConfig:
    """How a stage is trained unless its family has a reason to do otherwise. In float32, all alike."""
    return TrainConfig(
        steps=steps,
        batch=batch,
        seed=seed,
        optimiser=optimiser,
        warmup=min(100, steps // 10),
        decay=LinearDecay(start=0.5),
        bf16=False,
        snapshot_every=0,
        checkpoint_every=max(1, steps // 4),
    )


@dataclass(frozen=True)
class Family(ABC):
    """Its fields are its hyper-parameters."""

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def about(self) -> str:
        """One sentence: what it is, after whom."""

    drop = 0.0
    """Share of the rows whose class is withheld in training."""

    @abstractmethod
    def contender(self, subject: Subject, size: int) -> Contender:
        """With fresh weights from torch's generator. InputError for data that this family cannot learn."""

    def batch(self, usual: int) -> int:
        """Rows a step, where diffusion takes `usual`: the compute is the same, smaller batches buy more steps."""
        return usual

    @abstractmethod
    def training(self, steps: int, batch: int, seed: int, stage: int) -> TrainConfig: ...

    @abstractmethod
    def sources(self) -> tuple[Callable[..., Any], ...]:
        """The classes and functions that are this family's own training recipe: their lines are counted."""

    def settings(self) -> tuple[object, ...]:
        """Frozen values whose fields are this family's hyper-parameters, beside those of its TrainConfig."""
        return (self,)


def parts(batch: Batch) -> tuple[State, Mapping[str, Tensor]]:
    """What a training batch holds: the state, and what each row is told."""
    return cast(State, batch["x"]), cast(Mapping[str, Tensor], batch["cond"])


class Rows:
    """A table's encoded rows as vectors: its numbers, then one unit vector a column of categories.

    numeric: columns of numbers; sizes: categories of each other column. dim = numeric + sum of sizes.
    """

    def __init__(self, codec: TableCodecConfig) -> None:
        self.numeric, self.sizes = len(codec.numeric), codec.sizes
        self.dim = self.numeric + sum(self.sizes)

    def vector(self, state: Mapping[str, Tensor]) -> Tensor:
        """(B, dim) float32"""
        parts = [state["numeric"]] if self.numeric else []
        parts += [one_hot(state["categorical"][:, j], n).float() for j, n in enumerate(self.sizes)]
        return torch.cat(parts, 1)

    def split(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, dim) -> numbers (B, numeric), and for every other column (B, categories)."""
        numbers, *columns = x.split([self.numeric, *self.sizes], 1)
        return numbers, columns

    def state(self, numbers: Tensor, codes: Sequence[Tensor]) -> State:
        """numbers (B, numeric) and the chosen category (B,) of every other column -> a state for the codec."""
        out = {"numeric": numbers} if self.numeric else {}
        return {**out, "categorical": torch.stack(list(codes), 1)} if self.sizes else out

    def gumbel(self, rng: Streams, device: torch.device) -> Tensor:
        """Standard Gumbel noise for every category, (B, sum of sizes): logits + noise, the largest, is a draw."""
        u = rng.uniform("category", (sum(self.sizes),), dtype=torch.float64)
        return -torch.log(-torch.log(u.clamp(1e-12, 1 - 1e-12))).float().to(device)


def parameters(modules: Sequence[nn.Module]) -> int:
    """Numbers that are learned; shared ones count once."""
    return sum(p.numel() for p in {id(p): p for m in modules for p in m.parameters()}.values())


def fitted_size(build: Callable[[int], nn.Module], target: int, low: int = 2, high: int = 1024) -> int:
    """The size whose module has nearest to `target` parameters; their number must rise with the size, by and large.

    Modules are built without memory. Raises InputError if the nearest is more than 5 % away.
    """

    def count(size: int) -> int:
        with unfilled():
            return parameters([build(size)])

    a, b = low, high
    while a < b:  # the first size that is not too small
        middle = (a + b) // 2
        a, b = (middle + 1, b) if count(middle) < target else (a, middle)
    near = range(max(low, a - 4), min(high, a + 4) + 1)  # rounded widths may make a step or two back
    best = min(near, key=lambda s: abs(count(s) - target))
    if abs(count(best) - target) > 0.05 * target:
        raise InputError(
            f"no size comes within 5 % of {target:,} parameters (the nearest has {count(best):,}); compare larger networks"
        )
    return best


def flops_per_step(task: Task, data: DataSet, batch: int, seed: int = 0) -> int:
    """Floating-point operations of one training step, forward and backward, counted by running it. Matrix products and convolutions
    alone, as is usual; attention is computed by its plain products, which the counter sees. The task keeps its weights."""
    rows = [i % len(data) for i in range(batch)]
    streams = Streams.of(seed, batch)
    given: Batch = data.batch(rows, streams.scoped("data"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task(given, streams.scoped("task"))["loss"].backward()
    task.zero_grad(set_to_none=True)
    return counter.get_total_flops()

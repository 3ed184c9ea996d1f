"""How to train: one frozen value, nothing of which is a run's state."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from unnoise.core.errors import InputError


class Decay(ABC):
    """A frozen dataclass: the learning rate over the run, as a factor."""

    @abstractmethod
    def factor(self, step: int, steps: int) -> float:
        """The factor at `step`, 0 <= step < steps; 1 at most."""


@dataclass(frozen=True)
class Constant(Decay):
    """No decay; right for short runs that are judged by their averaged weights."""

    def factor(self, step: int, steps: int) -> float:
        return 1.0


@dataclass(frozen=True)
class CosineDecay(Decay):
    """Half a cosine from 1 to `floor` (Loshchilov & Hutter 2017, 1608.03983)."""

    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise InputError(f"decay down to {self.floor} of the learning rate: a share of it, 0 to 1")

    def factor(self, step: int, steps: int) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class LinearDecay(Decay):
    """1 until `start` (a fraction of the run), then straight to zero at its end."""

    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1:
            raise InputError(f"decay from {self.start} of the run on: a share of it, 0 to 1")

    def factor(self, step: int, steps: int) -> float:
        return min(1.0, (1 - step / steps) / max(1 - self.start, 1e-12))


@dataclass(frozen=True)
class InverseSqrtDecay(Decay):
    """1 until step `after`, then sqrt(after / step): needs no end to be known (Karras et al. 2024, 2312.02696, eq. 67)."""

    after: int = 10_000

    def __post_init__(self) -> None:
        if self.after < 1:
            raise InputError(f"decay after {self.after} steps: at least 1; then it goes with the inverse square root")

    def factor(self, step: int, steps: int) -> float:
        return 1.0 if step <= self.after else math.sqrt(self.after / step)


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW (Loshchilov & Hutter 2019, 1711.05101)."""

    lr: float = 3e-4
    """Learning rate after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the running mean of the gradient and of its square."""
    eps: float = 1e-8
    weight_decay: float = 0.0
    """Decoupled decay, of parameters with two axes or more (biases and gains are left alone)."""


@dataclass(frozen=True)
class MuonConfig:
    """Muon for hidden weight matrices (see `optimisers.Muon`), AdamW for the rest."""

    lr: float = 1e-3
    """Learning rate; the update's root mean square is 0.2 of it, as AdamW's tends to be, so AdamW's rates carry over."""
    momentum: float = 0.95
    weight_decay: float = 0.0
    smallest: int = 32
    """Matrices with a side shorter than this (depthwise filters, layers that touch few channels of data) are left to AdamW."""
    rest: AdamWConfig = field(default_factory=AdamWConfig)


@dataclass(frozen=True)
class GuardConfig:
    """When a run counts as diverged, and what is done then. A loss that is not finite always counts."""

    factor: float = 10.0
    """A loss explodes when it exceeds the running median by this many times the usual size of a loss ..."""
    patience: int = 20
    """... for this many steps in a row."""
    window: int = 200
    """Steps that the running median is taken over; until a quarter of them are seen, no loss explodes."""
    shrink: float = 0.5
    """Factor on the learning rate after each roll-back."""
    rollbacks: int = 5
    """Roll-backs without progress in between, after which the run gives up."""

    def __post_init__(self) -> None:
        if not self.factor > 0 or self.patience < 1 or self.window < 4 or self.rollbacks < 0:
            raise InputError(f"{self}: factor above 0, patience of 1 step and a window of 4 at least, 0 roll-backs or more")
        if not 0 < self.shrink <= 1:
            raise InputError(f"{self}: shrink multiplies the learning rate: above 0, at most 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    steps: int = 10_000
    """Optimiser steps."""
    batch: int = 64
    """Rows an optimiser step, over all processes."""
    micro_batch: int | None = None
    """Rows a forward pass of one process; gradients are accumulated over as many as needed. None: all of them at once."""
    seed: int = 0
    """Decides row order, noise, dropout: everything but the first weights, which the caller makes."""
    optimiser: AdamWConfig | MuonConfig = field(default_factory=AdamWConfig)
    warmup: int = 200
    """Steps over which the learning rate rises linearly."""
    decay: Constant | CosineDecay | LinearDecay | InverseSqrtDecay = field(default_factory=Constant)
    """What the learning rate does after the warm-up."""
    clip: float | None = 1.0
    """Largest gradient norm; None: gradients are not clipped."""
    ema_widths: tuple[float, ...] = (0.05, 0.10)
    """Relative widths of the averaged weights (see `ema`); the last one is what samples are drawn with during training."""
    bf16: bool | None = None
    """Forward and backward in bfloat16 autocast. None: if that is measured to be faster here, once, when the run starts."""
    compile: bool = False
    """Compile the blocks that the network repeats (see `compiled`): on processors a transformer's steps in bfloat16 take a fifth to
    a third less, a U-Net's as long, after a minute at the start. Runs that are resumed go on to rounding, not bit for bit."""
    channels_last: bool = True
    """Keep convolution weights channels last (in one process)."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints kept."""
    snapshot_every: int = 1000
    """Steps between the averaged weights kept for `ema.reconstruct`; 0: none are."""
    sample_every: int = 1000
    """Steps between sample sheets: recipes give it to their hooks."""
    log_every: int = 20
    """Steps between lines of the log; the guard looks as often."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_every", "keep", "log_every", "sample_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("warmup", "snapshot_every", "seed"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)}: must not be negative")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise InputError(f"micro_batch {self.micro_batch}: must be at least 1, or None for the whole batch at once")
        if self.clip is not None and not self.clip > 0:
            raise InputError(f"clip {self.clip}: must be positive, or None for no clipping")
        if not self.ema_widths or len(set(self.ema_widths)) < len(self.ema_widths):
            raise InputError(f"ema_widths {self.ema_widths}: name at least one width, and each once")
        for width in self.ema_widths:
            if not 0 < width < 0.28:  # sigma_rel of the flattest rising profile, gamma = 0, is 12^-1/2 = 0.289
                raise InputError(f"ema width {width}: must lie between 0 and 0.28")
        if not self.learning_rate > 0 or not math.isfinite(self.learning_rate):
            raise InputError(f"learning rate {self.learning_rate}: must be positive")

    @property
    def learning_rate(self) -> float:
        return self.optimiser.lr

    def lr_factor(self, step: int) -> float:
        """Warm-up and decay at `step`, 0 <= step < steps, as a factor on every learning rate."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return warm * self.decay.factor(step, self.steps)

"""A small task and data set: a regression with noise from the streams and dropout, whose steps cost next to nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from unnoise.core.random import Streams
from unnoise.training.config import LinearDecay, MuonConfig, TrainConfig
from unnoise.training.data import Batch
from unnoise.training.task import Task

CONFIG = TrainConfig(
    steps=24, batch=8, warmup=5, bf16=False, checkpoint_every=5, snapshot_every=0, log_every=4, decay=LinearDecay(), seed=4
)
MUON = replace(CONFIG, optimiser=MuonConfig(smallest=8), micro_batch=3)


class Deep(nn.Module):
    """A block of blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Toy(Task):
    """Denoise 4 numbers at a random time; all that a real task has: streams, times, nested blocks, a buffer, dropout, an unused
    weight."""

    def __init__(self, seed: int = 0, width: int = 16, dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList([nn.Linear(5, width), Deep(width)])
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, 4)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        x, t = batch["x"], rng.uniform("time")
        assert isinstance(x, Tensor)
        noisy = x + t[:, None] * rng.normal("noise", (4,))
        h = torch.cat([noisy, t[:, None]], 1)
        for block in self.blocks:
            h = self.dropout(torch.tanh(block(h)))
        per_sample = (self.out(h) * self.scale - x).square().mean(1)
        return {"loss": per_sample.mean(), "time": t, "per_sample": per_sample, "largest": per_sample.max()}


@dataclass(frozen=True)
class Points:
    """n fixed points; a batch adds a little augmentation from the streams. Row `poison` is not a number."""

    n: int = 50
    poison: int | None = None

    def __len__(self) -> int:
        return self.n

    def batch(self, rows: Sequence[int], rng: Streams) -> Batch:
        x = torch.tensor([[torch.sin(torch.tensor(1.7 * r + c)).item() for c in range(4)] for r in rows])
        x = x + 0.1 * rng.normal("jitter", (4,))
        if self.poison in rows:
            x[list(rows).index(self.poison)] = float("nan")
        return {"x": x, "cond": {}}


def weights(state: dict[str, Tensor]) -> bytes:
    """All bits of a state dict."""
    return b"".join(name.encode() + t.contiguous().numpy().tobytes() for name, t in sorted(state.items()))

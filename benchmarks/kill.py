"""kill -9 at random moments of a training run, checkpoint writing among them; it must always resume, to the same weights.

    python benchmarks/kill.py                     20 kills, about two minutes
    python benchmarks/kill.py --kills 3           the short form that the tests run

A process trains a small network with dropout, noise and accumulated gradients, saving every third step. Every other kill
waits for a checkpoint to be half written; the others come at a uniformly random time of up to `LIFE` seconds. When a run
gets to its end between kills its weights are compared and another one is begun. Exit status 1 if any weights differ.
"""

import argparse
import contextlib
import hashlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unnoise.core.random import Streams
from unnoise.training.config import MuonConfig, TrainConfig
from unnoise.training.data import Batch
from unnoise.training.loop import fit
from unnoise.training.task import Task

LIFE = 2.0
CONFIG = TrainConfig(
    steps=120,
    batch=12,
    micro_batch=8,
    seed=5,
    optimiser=MuonConfig(),
    bf16=False,
    checkpoint_every=3,
    snapshot_every=20,
    log_every=1,
)


class Small(Task):
    """A residual network that denoises 32 numbers; some megabytes of state, so that saving takes as long as a step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(33, 192), nn.Linear(192, 32)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(192, 192), nn.SiLU(), nn.Dropout(0.1)) for _ in range(4)])

    def forward(self, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        x, t = batch["x"], rng.uniform("time")
        assert isinstance(x, Tensor)
        h = self.enter(torch.cat([x + t[:, None] * rng.normal("noise", (32,)), t[:, None]], 1))
        for block in self.blocks:
            h = h + block(h)
        per_sample = (self.leave(h) - x).square().mean(1)
        return {"loss": per_sample.mean(), "time": t, "per_sample": per_sample}


class Waves:
    """100 sine waves; with 12 rows a batch, every epoch ends in the middle of one."""

    def __len__(self) -> int:
        return 100

    def batch(self, rows: Sequence[int], rng: Streams) -> Batch:
        phase = torch.tensor(rows)[:, None] / 7 + 0.1 * rng.normal("jitter", (1,))
        return {"x": torch.sin(phase + torch.arange(32) / 4)}


def train(run: Path) -> None:
    """What the child process does: go on from wherever the run stands, and leave a hash of its last weights."""
    task = Small()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        result = fit(task, Waves(), CONFIG, run, resume=True)
    digest = hashlib.sha256()
    for state in (task.state_dict(), *result.ema.values()):
        for name, value in sorted(state.items()):
            digest.update(name.encode() + value.numpy().tobytes())
    (run / "hash.part").write_text(digest.hexdigest())
    (run / "hash.part").rename(run / "hash")


def begin(run: Path) -> multiprocessing.process.BaseProcess:
    child = multiprocessing.get_context("fork").Process(target=train, args=(run,))
    child.start()
    return child


@dataclass(frozen=True)
class Kill:
    """One kill and what it found."""

    run: int
    aimed: str
    seconds: float
    newest: int
    half_written: bool


def kill(run: Path, number: int, while_saving: bool, rng: np.random.Generator) -> Kill | None:
    """Let the run live for a random time, then kill -9; None if it came to its end before."""
    child, began = begin(run), time.monotonic()
    life, pause = rng.uniform(0, LIFE), rng.uniform(0, 0.01)
    while child.is_alive():
        age = time.monotonic() - began
        if age > life and (not while_saving or any(run.glob("checkpoints/.*.partial"))):
            time.sleep(pause if while_saving else 0)
            break
    if not child.is_alive():
        child.join()
        return None
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    steps = [int(p.name.removeprefix("step-")) for p in run.glob("checkpoints/step-*")]
    partial = any(run.glob("checkpoints/.*.partial"))
    return Kill(number, "saving" if while_saving else "any time", time.monotonic() - began, max(steps, default=-1), partial)


def finish(run: Path) -> str:
    """Let a run come to its end; the hash of its weights."""
    if not (run / "hash").exists():
        child = begin(run)
        child.join()
    return (run / "hash").read_text() if (run / "hash").exists() else "did not end"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        torch.set_num_threads(1)  # a process with more must not fork
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            fit(Small(), Waves(), replace(CONFIG, steps=1), Path(folder, "warm"))  # imports what is imported late, once for all
        straight = finish(Path(folder, "straight"))
        print(f"uninterrupted: {CONFIG.steps} steps, sha256 {straight[:16]}")
        print(f"{'kill':>4} {'run':>3} {'aimed at':>9} {'alive s':>8} {'newest checkpoint':>18} {'half-written one':>17}")
        kills: list[Kill] = []
        hashes: list[str] = []
        while len(kills) < arguments.kills:
            run = Path(folder, f"run-{len(hashes)}")
            found = kill(run, len(hashes), len(kills) % 2 == 0, rng)
            if found is None:
                hashes.append(finish(run))
                continue
            kills.append(found)
            partial = "yes" if found.half_written else "no"
            print(
                f"{len(kills):>4} {found.run:>3} {found.aimed:>9} {found.seconds:>8.2f} {found.newest:>18} {partial:>17}",
                flush=True,
            )
        hashes.append(finish(Path(folder, f"run-{len(hashes)}")))
    same = sum(h == straight for h in hashes)
    print(
        f"{len(kills)} kills, {sum(k.half_written for k in kills)} of them during a save; "
        f"{same} of {len(hashes)} runs ended with the uninterrupted run's weights, bit for bit"
    )
    return 0 if straight != "did not end" and same == len(hashes) else 1


if __name__ == "__main__":
    sys.exit(main())

"""What every process does in test_distributed, under torchrun."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from toy import CONFIG, MUON, Points, Toy

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.training import checkpoint, plot
from unnoise.training.data import Batch
from unnoise.training.loop import fit


class AskedToStop(Points):
    """Ctrl-C when the tenth batch is made."""

    calls = 0

    def batch(self, rows: Sequence[int], rng: Streams) -> Batch:
        AskedToStop.calls += 1
        if AskedToStop.calls == 10:
            AskedToStop.calls = -1000
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(rows, rng)


class Look:
    """A hook that keeps what it was shown."""

    every = 100

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, torch.Tensor]] = {}

    def __call__(self, step: int, task: Toy) -> None:
        self.seen[step] = {n: t.clone() for n, t in task.state_dict().items()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    plot.available = lambda: False
    rank = int(os.environ["RANK"])
    for name, config in (("adamw", CONFIG), ("muon", MUON)):
        AskedToStop.calls = 0
        look = Look()
        # the other process starts from other weights: the first one's count
        result = fit(Toy(seed=rank, dropout=0.0), Points(), config, folder / name, [look])
        assert bool(result.ema[0.05]) == (rank == 0)
        if rank == 0:
            for width, weights in result.ema.items():
                save_file(weights, folder / f"{name}-{width}.safetensors")
            assert all(torch.equal(t, result.ema[0.10][n]) for n, t in look.seen[config.steps].items())
        # one process alone is asked to stop on the way; both do, and one process goes on later
        data = AskedToStop() if rank == 1 else Points()
        result = fit(Toy(seed=rank, dropout=0.0), data, config, folder / f"{name}-2-1")
        assert result.interrupted
        assert result.steps < config.steps
        # one process has begun this one
        result = fit(Toy(seed=9, dropout=0.0), Points(), config, folder / f"{name}-1-2", resume=True)
        if rank == 0:
            save_file(result.ema[0.05], folder / f"{name}-1-2.safetensors")
    try:
        fit(Toy(), Points(), replace(CONFIG, batch=7), folder / "odd")
    except InputError as e:
        (folder / f"odd-{rank}").write_text(str(e))
    # a disk that is full for one process alone must stop both, with nothing left behind
    if rank == 1:

        def full(tensors: object, path: Path) -> None:
            raise OSError(28, "No space left on device")

        checkpoint.save_file = full
    try:
        fit(Toy(), Points(), CONFIG, folder / "full")
    except InputError as e:
        (folder / f"full-{rank}").write_text(str(e))
    checkpoint.save_file = save_file
    # nor may the processes part where the first one cannot even make the folder: afterwards both go on together
    if rank == 0:
        (folder / "file").mkdir()
        (folder / "file/checkpoints").write_text("no folder")
    try:
        fit(Toy(), Points(), CONFIG, folder / "file")
    except InputError as e:
        (folder / f"file-{rank}").write_text(str(e))
    assert fit(Toy(), Points(), replace(CONFIG, steps=2), folder / "after").steps == 2


if __name__ == "__main__":
    main(Path(sys.argv[1]))

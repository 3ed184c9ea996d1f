"""The moving parts of training: weights, optimisers, averages. One step forward; all of it into a checkpoint and back."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from unnoise.core.errors import InputError
from unnoise.core.random import Streams, derive
from unnoise.training.checkpoint import Checkpoint
from unnoise.training.compiled import compile_repeated
from unnoise.training.config import TrainConfig
from unnoise.training.data import Batch, DataSet, Loader, Order, take
from unnoise.training.distributed import World
from unnoise.training.ema import Averages
from unnoise.training.metrics import Tally
from unnoise.training.optimisers import build
from unnoise.training.task import Task


class Trainer:
    """Trains `task` in place. Which step, at which learning rate, on which batch: the caller says."""

    def __init__(self, task: Task, data: DataSet, config: TrainConfig, world: World) -> None:
        self.task, self.config, self.world = task, config, world
        self.device = next(task.parameters()).device
        order = Order(len(data), config.batch, config.seed, world.rank, world.size)
        task.train()
        if config.channels_last and world.size == 1:
            for module in task.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        world.shard(task)
        if config.compile:
            compile_repeated(task, self.device)
        self.params = {name: p for name, p in task.named_parameters() if p.requires_grad}
        if not self.params:
            raise InputError("the task has no parameters that ask for gradients; there is nothing to train")
        self.averages = Averages(self.params, config.ema_widths, world)
        self.loader = Loader(data, order)
        self.tally = Tally()
        self.bf16 = False
        self.optimisers: list[torch.optim.Optimizer] = []

    def start(self, bf16: bool) -> None:
        """Make the optimisers, for this precision."""
        self.bf16 = bf16
        self.optimisers = build(self.config, self.task, self.world, bf16)

    def step(self, step: int, k: int, scale: float) -> tuple[Tensor, Tensor]:
        """Optimiser step `step` (from 0) on batch `k`, with the learning rate times `scale`.

        Returns the loss of this process's rows and the norm of everyone's gradient, both () and still on the device.
        """
        self._seed(derive(self.config.seed, f"torch/{k}/{self.world.rank}"))
        loss = self._gradients(*self.loader.get(k), self.bf16)
        norm = self._clip()
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * scale * self.config.lr_factor(step)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.task.after_step()
        self.averages.update(step + 1)
        self.tally.add({"grad_norm": norm}, 1)
        return loss, norm

    def _seed(self, seed: int) -> None:
        """For dropout, if there is any. (torch.manual_seed takes milliseconds: it keeps a stack trace for other devices.)"""
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _gradients(self, batch: Batch, streams: Streams, bf16: bool) -> Tensor:
        """Accumulate the gradient of a batch's mean loss over its micro-batches; that loss, ()."""
        rows = len(streams)
        size = min(self.config.micro_batch or rows, rows)
        total = torch.zeros((), device=self.device)
        for first in range(0, rows, size):
            part = slice(first, min(first + size, rows))
            share = (part.stop - first) / rows
            self.world.last_of_step(self.task, part.stop == rows)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                out = self.task(take(batch, part, self.device), streams[part])
            (out["loss"] * share).backward()
            total += out["loss"].detach() * share
            self.tally.add({name: v for name, v in out.items() if v.ndim == 0}, share)
            if "time" in out and "per_sample" in out:
                self.tally.add_times(out["time"], out["per_sample"])
        return total

    def _clip(self) -> Tensor:
        grads = [p.grad for p in self.params.values() if p.grad is not None]
        norm = nn.utils.get_total_norm(grads)
        if self.config.clip is not None:
            nn.utils.clip_grads_with_norm_(self.params.values(), self.config.clip, norm)
        return self.world.full(norm)

    def bf16_is_faster(self) -> bool:
        """Whether forward and backward of the first batch are faster in bfloat16 here, by a tenth or more.

        Measured with the task itself: a matrix product alone flatters bfloat16 on small networks. What is trained stays as it is.
        """
        batch, streams = self.loader.get(0)
        size = self.config.micro_batch or len(streams)
        batch, streams = take(batch, slice(size), torch.device("cpu")), streams[:size]
        best = {False: float("inf"), True: float("inf")}
        for _ in range(3):  # the first round warms up
            for bf16 in best:
                _synchronise(self.device)
                began = time.perf_counter()
                self._gradients(batch, streams, bf16)
                _synchronise(self.device)
                best[bf16] = min(best[bf16], time.perf_counter() - began)
                self.task.zero_grad(set_to_none=True)
        self.tally = Tally()
        return bool(self.world.agree(int(best[True] < 0.9 * best[False])))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint holds, by name: the tensors themselves, not copies."""
        out = {f"model/{name}": t for name, t in self._model().items()}
        for optimiser, p, name in self._moved():
            state = optimiser.state.get(p, {})
            out |= {f"{type(optimiser).__name__}/{name}/{key}": t for key, t in state.items()}
        for width, average in self.averages.values.items():
            out |= {f"ema/{width}/{name}": t for name, t in average.items()}
        return out

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over a checkpoint's tensors. Raises InputError if they are another model's."""
        for optimiser, p, name in self._moved():
            optimiser.state.pop(p, None)
            prefix = f"{type(optimiser).__name__}/{name}/"
            for stored, shape in checkpoint.shapes.items():
                if stored.startswith(prefix):
                    like = torch.zeros_like(p) if shape == tuple(p.shape) else torch.zeros(shape, device=p.device)
                    optimiser.state[p][stored.removeprefix(prefix)] = like
        wanted = self.tensors()
        for name, tensor in wanted.items():
            checkpoint.read(name, tensor, self.world)
        for name in checkpoint.shapes:
            if name not in wanted:
                raise InputError(f"{checkpoint.path}: {name} has no place here; resume with the run's own settings")

    def _model(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers, each once under its first name (tied weights have several)."""
        first: dict[int, tuple[str, Tensor]] = {}
        for name, t in self.task.state_dict(keep_vars=True).items():
            first.setdefault(id(t), (name, t))
        return dict(first.values())

    def _moved(self) -> Iterator[tuple[torch.optim.Optimizer, nn.Parameter, str]]:
        """Every trained parameter, its optimiser and its name."""
        names = {id(p): name for name, p in self.params.items()}
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                for p in group["params"]:
                    yield optimiser, p, names[id(p)]

    @torch.no_grad()
    def averaged(self, width: float) -> dict[str, Tensor]:
        """The whole state dict with averaged weights, on the CPU; empty on other processes than the first, which must ask too."""
        names = {id(p): name for name, p in self.params.items()}
        out = {}
        for name, value in self.task.state_dict(keep_vars=True).items():
            if id(value) in names:
                value = self.averages.values[width][names[id(value)]]
            whole = self.world.full(value.detach())
            if self.world.first:
                out[name] = whole.cpu()
        return out


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def own_generator(device: torch.device) -> Iterator[None]:
    """Leave torch's own generators as they were found."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield

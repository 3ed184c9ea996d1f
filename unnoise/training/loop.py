"""The training loop: step, look, save, show; roll back when it diverges; stop when asked; go on from anywhere.

A run's folder:

    checkpoints/step-00001000/     all that is needed to go on exactly (see `checkpoint`)
    snapshots/                     averaged weights now and then, for `ema.reconstruct`
    metrics.jsonl  tensorboard/    the log
    loss.png  loss_by_time.png     its pictures
"""

import copy
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise.core.errors import InputError
from unnoise.training import plot
from unnoise.training.checkpoint import Checkpoints
from unnoise.training.config import TrainConfig
from unnoise.training.data import DataSet
from unnoise.training.distributed import World, join
from unnoise.training.ema import forget_snapshots, save_snapshot
from unnoise.training.guard import Guard
from unnoise.training.interrupt import Interrupts
from unnoise.training.metrics import Recorder, Tally
from unnoise.training.task import Task
from unnoise.training.trainer import Trainer, own_generator


class Hook(Protocol):
    """Called after every `every` steps and after the last, by the first process alone."""

    every: int

    def __call__(self, step: int, task_with_ema_weights: Task) -> None:
        """The task is a copy with averaged weights, in evaluation mode."""
        ...


@dataclass(frozen=True)
class FitResult:
    """What training leaves in memory."""

    steps: int
    """Optimiser steps done; fewer than asked for if the run was interrupted."""
    ema: Mapping[float, Mapping[str, Tensor]]
    """For each width the task's state dict with averaged weights, float32, on the CPU; empty on other processes than the first."""
    history: Path
    """The run's metrics.jsonl."""
    interrupted: bool = False


@dataclass(frozen=True)
class Position:
    """Where a run stands; with the tensors, all of its state."""

    bf16: bool
    step: int = 0  # optimiser steps done
    batch: int = 0  # number of the next batch: beyond `step` once roll-backs have skipped some
    scale: float = 1.0  # of the learning rate: shrunk by roll-backs
    rollbacks: int = 0  # since the run last got beyond `trouble`
    trouble: int = 0  # the step at which it last diverged
    seconds: float = 0.0  # of training so far
    losses: tuple[float, ...] = ()  # the guard's memory
    streak: int = 0


def fit(task: Task, data: DataSet, config: TrainConfig, run: Path, hooks: Sequence[Hook] = (), resume: bool = False) -> FitResult:
    """Train a task, in place, on the device where it lies.

    Under torchrun every process calls this with the same arguments. With `resume` the run goes on from its newest whole
    checkpoint; on a CPU its weights are then bit for bit those of a run that was never interrupted.
    Raises InputError if `run` already has checkpoints (without `resume`), if it was made with other data or settings (with
    it), if nothing can be written there, and if training keeps diverging. Checkpoints saved before stay whole.
    """
    device = next(task.parameters()).device
    with own_generator(device), Interrupts() as interrupts:
        return _Run(task, data, config, run, hooks, join(device), interrupts).go(resume)


def measure_step_seconds(task: Task, data: DataSet, config: TrainConfig, n: int = 3) -> float:
    """Seconds an optimiser step takes here (median of n, after one to warm up), in one process. The task stays as it is."""
    device = next(task.parameters()).device
    with own_generator(device):
        trainer = Trainer(copy.deepcopy(task), data, config, World())
        with trainer.loader:
            trainer.start(trainer.bf16_is_faster() if config.bf16 is None else config.bf16)
            taken = []
            for k in range(n + 1):
                began = time.perf_counter()
                float(trainer.step(k, k, 1.0)[0])  # waits for the device
                taken.append(time.perf_counter() - began)
    return median(taken[1:])


class _Run:
    """One call of `fit`."""

    def __init__(
        self,
        task: Task,
        data: DataSet,
        config: TrainConfig,
        run: Path,
        hooks: Sequence[Hook],
        processes: World,
        interrupts: Interrupts,
    ) -> None:
        self.config, self.run, self.hooks, self.world, self.interrupts = config, run, hooks, processes, interrupts
        self.shown = copy.deepcopy(task).eval() if hooks and processes.first else None  # before sharding: hooks see whole weights
        self.trainer = Trainer(task, data, config, processes)
        self.checkpoints = Checkpoints(run / "checkpoints", processes, config.keep)
        # what batches and streams follow from; another value of any of these is another run
        self.identity = {"seed": config.seed, "batch": config.batch, "rows": len(data)}
        self.position = Position(bf16=False)
        self.guard = Guard(config.guard)
        self.unseen: list[tuple[Tensor, Tensor]] = []  # losses and gradient norms that the guard has not looked at

    def go(self, resume: bool) -> FitResult:
        self._begin(resume)
        with self.trainer.loader, Recorder(self.run, self.world) as self.recorder:
            if not self.recorder.has_board:
                self._say("TensorBoard is not installed; the log is metrics.jsonl alone")
            with tqdm(total=self.config.steps, initial=self.position.step, unit="step", disable=not self.world.first) as self.bar:
                stopped = self._steps()
        if self.world.first and plot.available():
            plot.draw(self.run)
        if stopped:
            self._say(f"stopped after step {self.position.step}; all is saved in {self.run}")
        ema = {width: self.trainer.averaged(width) for width in self.config.ema_widths}
        return FitResult(self.position.step, ema, self.run / "metrics.jsonl", stopped)

    def _begin(self, resume: bool) -> None:
        """Take up the run where it stands, or start it and save that."""
        if not resume and self.checkpoints.steps():
            raise InputError(f"{self.run} holds a run already; resume it, or choose another folder")
        if resume and self._restore():
            self._say(f"going on from step {self.position.step}")
            return
        if resume:
            self._say("nothing had been saved yet; starting from the beginning")
        bf16 = self.trainer.bf16_is_faster() if self.config.bf16 is None else self.config.bf16
        self.trainer.start(bf16)
        self.position = Position(bf16)
        self._save()

    def _steps(self) -> bool:
        """All remaining steps; whether it was asked to stop before the last."""
        config, began = self.config, time.perf_counter()
        if self.position.step == config.steps:
            self._show()  # the run may have been cut off in the midst of it
        while self.position.step < config.steps:
            p = self.position
            self.unseen.append(self.trainer.step(p.step, p.batch, p.scale))
            now = time.perf_counter()
            self.position = p = replace(p, step=p.step + 1, batch=p.batch + 1, seconds=p.seconds + now - began)
            began = now
            self.bar.update(1)
            stop = self.world.any(self.interrupts.asked)
            last = stop or p.step == config.steps
            save = last or p.step % config.checkpoint_every == 0
            if p.step % config.log_every == 0 or save:
                if (complaint := self._look()) is not None:
                    self._roll_back(complaint)
                    continue
                self._log()
            self._snapshot()
            if save:
                self._save()
            if not stop or p.step == config.steps:
                self._show()
            if stop:
                return p.step < config.steps
        return False

    def _look(self) -> str | None:
        """Let the guard see the steps since it last looked; its complaint, the same on all processes."""
        losses = self.world.mean(torch.stack([loss for loss, _ in self.unseen])).tolist()
        norms = torch.stack([norm for _, norm in self.unseen]).tolist()
        first = self.position.step - len(losses)
        self.unseen = []
        for i, (loss, norm) in enumerate(zip(losses, norms)):
            if (complaint := self.guard.complaint(loss, norm)) is not None:
                return f"at step {first + i + 1} {complaint}"
        self.bar.set_postfix(loss=f"{losses[-1]:.4g}")
        return None

    def _log(self) -> None:
        p = self.position
        lr = self.config.learning_rate * p.scale * self.config.lr_factor(p.step - 1)
        self.recorder.write({"step": p.step, **self.trainer.tally.means(self.world), "lr": lr, "seconds": p.seconds})

    def _save(self) -> None:
        p = self.position
        if p.step > p.trouble:
            p = replace(p, rollbacks=0)
        self.position = replace(p, losses=tuple(self.guard.losses), streak=self.guard.streak)
        self.checkpoints.save(p.step, self.trainer.tensors(), {"run": self.identity, **asdict(self.position)})

    def _restore(self, skip: int = 0) -> bool:
        """Stand where the newest whole checkpoint stands (or one `skip` before it); whether there is one."""
        checkpoint, complaints = self.checkpoints.newest(skip)
        for complaint in complaints:
            self._say(complaint)
        if checkpoint is None:
            return False
        for name, now in self.identity.items():
            if (had := checkpoint.state["run"][name]) != now:
                raise InputError(
                    f"{checkpoint.path}: the run had {name} {had}, now it is {now}; "
                    "resume with the run's own data and settings, or start another run"
                )
        state = {name: checkpoint.state[name] for name in Position.__dataclass_fields__}
        self.position = Position(**{**state, "losses": tuple(state["losses"])})
        self.guard = Guard(self.config.guard, self.position.losses, self.position.streak)
        self.unseen = []
        self.trainer.start(self.position.bf16)
        self.trainer.restore(checkpoint)
        return True

    def _roll_back(self, complaint: str) -> None:
        """Return to a checkpoint, leave out the batches since, and go on at a lower learning rate."""
        config, failed = self.config.guard, self.position
        if failed.rollbacks >= config.rollbacks:
            self._forget_snapshots(self.checkpoints.steps()[-1])
            raise InputError(
                f"{self.run}: training diverged: {complaint}, after {failed.rollbacks} roll-backs and at "
                f"{self.config.learning_rate * failed.scale:.3g} as learning rate; look at the data, or begin with a lower one"
            )
        self._restore(skip=failed.rollbacks)  # the second time further back: that checkpoint may be bad already
        self.checkpoints.forget_after(self.position.step)
        self._forget_snapshots(self.position.step)
        self.position = replace(
            self.position,
            batch=failed.batch,
            scale=failed.scale * config.shrink,
            rollbacks=failed.rollbacks + 1,
            trouble=max(failed.step, failed.trouble),
            seconds=failed.seconds,
        )
        p = self.position
        self.trainer.tally = Tally()
        message = (
            f"{complaint}: rolled back to step {p.step}, batches up to {failed.batch - 1} are left out, "
            f"learning rate {self.config.learning_rate * p.scale:.3g} (roll-back {p.rollbacks} of {config.rollbacks})"
        )
        self._say(message)
        self.recorder.write({"step": p.step, "event": message})
        self.bar.n = p.step
        self.bar.refresh()

    def _forget_snapshots(self, step: int) -> None:
        """Averages of what came after the step are not of this run any more."""
        if self.world.first:
            forget_snapshots(self.run, step)

    def _snapshot(self) -> None:
        """Averages to keep, if they are due after this step: before it is saved, so that none is missing behind it."""
        step, last = self.position.step, self.position.step == self.config.steps
        if self.config.snapshot_every and (last or step % self.config.snapshot_every == 0):
            for width in self.config.ema_widths:
                values = self.trainer.averaged(width)
                if self.world.first:
                    save_snapshot(self.run, width, step, {n: v for n, v in values.items() if n in self.trainer.params})

    def _show(self) -> None:
        """Pictures of the log, hooks: what is due after this step."""
        step, last = self.position.step, self.position.step == self.config.steps
        due = [hook for hook in self.hooks if last or step % hook.every == 0]
        if not due:
            return
        values = self.trainer.averaged(self.config.ema_widths[-1])
        if self.shown is not None:
            self.shown.load_state_dict(values)
            with torch.no_grad():
                for hook in due:
                    hook(step, self.shown)
            if plot.available():
                plot.draw(self.run)

    def _say(self, message: str) -> None:
        if self.world.first:
            tqdm.write(message, file=sys.stderr)

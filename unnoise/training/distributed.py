"""Many processes (torchrun) or one: `World` says which, and one process needs no process group at all.

Parameters, their optimiser state and their averages are sharded by rows (FSDP2, `torch.distributed.fsdp.fully_shard`):
of a tensor with d rows, rank r of W holds rows r c ... min((r + 1) c, d) with c = ceil(d / W).
"""

import atexit
import os
import time
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

SETTLING = 0.25
"""Seconds between a process's last word and its end: with them none of 21 runs of two processes aborted, without 2 of 10."""


@dataclass(frozen=True)
class World:
    """The processes of a run. With size 1 every method is the identity."""

    rank: int = 0
    size: int = 1
    mesh: DeviceMesh | None = None

    @property
    def first(self) -> bool:
        """Whether this process speaks, logs and draws."""
        return self.rank == 0

    def mean(self, x: Tensor) -> Tensor:
        """The mean over processes."""
        if self.size > 1:
            dist.all_reduce(x := x.clone())
            x /= self.size
        return x

    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes."""
        if self.size > 1:
            dist.all_reduce(x := x.clone())
        return x

    def any(self, flag: bool) -> bool:
        """Whether any process says so. Also a barrier."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(int(flag))) > 0)

    def agree(self, number: int) -> int:
        """The first process's number."""
        if self.size == 1:
            return number
        dist.broadcast(x := torch.tensor(number), src=0)
        return int(x)

    def local(self, x: Tensor) -> Tensor:
        """This process's rows of a tensor; they share its memory."""
        return x.to_local() if isinstance(x, DTensor) else x

    def full(self, x: Tensor) -> Tensor:
        """The whole of a tensor that may be sharded (every process must ask)."""
        return x.full_tensor() if isinstance(x, DTensor) else x

    def rows(self, whole: Tensor, like: Tensor) -> Tensor:
        """Those rows of `whole` that this process holds of `like`."""
        return whole[self.first_row(like) :][: len(like.to_local())] if isinstance(like, DTensor) else whole

    def first_row(self, x: Tensor) -> int:
        """The number of this process's first row of a tensor."""
        return min(self.rank * -(-x.shape[0] // self.size), x.shape[0]) if isinstance(x, DTensor) else 0

    def shard(self, task: nn.Module) -> None:
        """Give every process the first one's weights, then leave it its share: block by block, then what is left."""
        if self.mesh is None:
            return
        for x in [*task.parameters(), *task.buffers()]:
            dist.broadcast(x.detach(), src=0)
        for module in reversed(list(task.modules())):  # what lies within a block before the block itself
            if isinstance(module, nn.ModuleList):
                for block in module:
                    if any(True for _ in block.parameters()):
                        fully_shard(block, mesh=self.mesh)
        fully_shard(task, mesh=self.mesh)

    def last_of_step(self, task: nn.Module, last: bool) -> None:
        """Say before a backward pass whether gradients are to be summed over processes after it."""
        if isinstance(task, FSDPModule):
            task.set_requires_gradient_sync(last)


def device() -> torch.device:
    """Where this process should train: its own GPU if there are any, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def join(where: torch.device) -> World:
    """The processes that torchrun started (RANK, WORLD_SIZE), for tensors on the kind of device `where`; one without torchrun.

    The process group is made at the first call and lasts until the program ends: torchrun's store cannot make it twice.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        if where.type == "cuda":
            torch.cuda.set_device(where)
        dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo")
        atexit.register(_leave)
    return World(dist.get_rank(), size, init_device_mesh(where.type, (size,)))


def _leave() -> None:
    """Gloo's threads say that a collective is done before they drop its tensors, for which they need the interpreter; where this
    has ended meanwhile, they abort the process (pytorch/pytorch#179291). Nothing tells that they have dropped them: so a pause."""
    if dist.is_initialized():
        time.sleep(SETTLING)
        dist.destroy_process_group()

"""Muon, and which optimiser moves which parameter.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): the momentum matrix M of a weight (n, m) is replaced by the
orthogonal matrix nearest to it, U V^T of its singular value decomposition, found by five Newton-Schulz steps

    X <- a X + (b A + c A^2) X,   A = X X^T,   (a, b, c) = (3.4445, -4.7750, 2.0315),   X_0 = M / |M|_F,

which bring every singular value near 1. The update is scaled by 0.2 sqrt(max(n, m)), so that its root mean square is
0.2, as AdamW's (Liu et al. 2025, 2502.16982, eq. 4). Convolution weights (n, m, k, k) are taken as (n, m k k).

torch.optim.Muon takes whole matrices only; here a weight may be a convolution or sharded over processes, and matrices of
one shape are orthogonalised together, which is what makes it fast on small networks.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.training.config import AdamWConfig, MuonConfig, TrainConfig
from unnoise.training.distributed import World


def orthogonalise(m: Tensor) -> Tensor:
    """(B, n, m) matrices -> nearly orthogonal ones with the same singular vectors; computed in the dtype of `m`."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = m.shape[-2] > m.shape[-1]
    x = m.mT if tall else m
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Parameters of two axes or more; `dtype` is what Newton-Schulz runs in (bfloat16 where the processor is fast at it)."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        world: World,
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._world, self._dtype = world, dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step; `closure` is there for torch's sake and may be None only."""
        assert closure is None
        for group in self.param_groups:
            momentum = group["momentum"]
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"].lerp_(p.grad, 1 - momentum)
                nesterov = self._world.full(p.grad.lerp(m, momentum)).flatten(1)  # the whole matrix, on every process
                alike[nesterov.shape].append((p, nesterov))
            for (rows, columns), some in alike.items():
                updates = orthogonalise(torch.stack([u for _, u in some]).to(self._dtype)).float()
                for (p, _), update in zip(some, updates):
                    mine = self._world.local(p)
                    mine.mul_(1 - group["lr"] * group["weight_decay"])
                    part = self._world.rows(update, p).reshape(mine.shape)
                    mine.add_(part, alpha=-group["lr"] * 0.2 * max(rows, columns) ** 0.5)


def hidden_matrices(task: nn.Module, smallest: int) -> set[str]:
    """Names of the weights of linear and convolution layers, seen as (n, m k k), whose shorter side is `smallest` or more.

    Embeddings, positions and other free parameters are not among them.
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    weights = {id(m.weight) for m in task.modules() if isinstance(m, kinds)}
    weights -= {id(m.weight) for m in task.modules() if isinstance(m, nn.Embedding)}  # tied ones stay embeddings
    return {
        name
        for name, p in task.named_parameters()
        if p.requires_grad and id(p) in weights and min(p.shape[0], p[0].numel()) >= smallest
    }


def build(config: TrainConfig, task: nn.Module, world: World, bf16: bool) -> list[torch.optim.Optimizer]:
    """The optimisers of a task's trainable parameters; every group's "initial_lr" is the rate that factors apply to."""
    trainable = {name: p for name, p in task.named_parameters() if p.requires_grad}
    chosen = config.optimiser
    optimisers: list[torch.optim.Optimizer] = []
    if isinstance(chosen, MuonConfig):
        names = hidden_matrices(task, chosen.smallest)
        if names:
            hidden = [p for name, p in trainable.items() if name in names]
            dtype = torch.bfloat16 if bf16 else torch.float32
            optimisers.append(
                Muon(hidden, world, lr=chosen.lr, momentum=chosen.momentum, weight_decay=chosen.weight_decay, dtype=dtype)
            )
        trainable = {name: p for name, p in trainable.items() if name not in names}
        chosen = chosen.rest
    if trainable:
        optimisers.append(_adamw(chosen, list(trainable.values())))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return optimisers


def _adamw(config: AdamWConfig, params: list[nn.Parameter]) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=config.betas, eps=config.eps, fused=True)

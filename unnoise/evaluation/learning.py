"""How the small networks of the measures learn: AdamW (Loshchilov & Hutter 2017, 1711.05101) under one cycle of the learning rate
(Smith & Topin 2017, 1708.07120), from random draws of their own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from unnoise.training.distributed import device


def trained(
    build: Callable[[], nn.Module],
    loss: Callable[[nn.Module, torch.device], Tensor],
    steps: int,
    rate: float,
    seed: int,
    title: str,
    progress: bool,
) -> nn.Module:
    """build() after so many steps, in eval, frozen. loss(network, the network's device): of the next batch.

    On a CPU the same seed gives the same network; the caller's random state is left as it was.
    """
    where = device()
    with torch.inference_mode(False), torch.enable_grad(), drawing_from(seed):
        network = build().to(where).train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.05)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
        for _ in tqdm(range(steps), desc=title, unit="step", disable=not progress, leave=False):
            value = loss(network, where)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            cycle.step()
    return network.eval().requires_grad_(False)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Everything that torch draws on the CPU comes from this seed; the caller's generator is left where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield

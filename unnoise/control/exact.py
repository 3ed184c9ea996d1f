"""Bitwise reproducibility: the network is called in micro-batches of one fixed shape, so that company cannot change a bit.

Matrix and convolution kernels are chosen by shape and threads, and each sums in its own order. Measured on an AMX CPU (torch 2.13,
oneDNN; convolutional U-Nets, transformers and MLPs, fp32 and bf16; batches of 2, 3, 4, 8, 16 against the same row alone):
    - the batch size changes bits in most fp32 convolutional networks and MLPs, and with two threads in some transformers;
    - what the other rows hold changes nothing;
    - the row's position in the batch changes nothing with one thread, but with two threads it did for bf16 attention over 257
      tokens in a batch of 3 and for an fp32 MLP in a batch of 4, where the threads' shares of the work cut through a row.
So the only size that is right by construction is 1: every row in the same place, always. It costs 1.1 to 2 times the time per
sample for networks that keep the cores busy (U-Net of 128 channels at 32 x 32: 1.1; transformer of width 256 over 64 tokens: 1.7),
more for toys. A larger size is right where kernels do not depend on the row's position.

The bits are those of one machine, one build and one number of threads. The condition must come in one shape as well: a
conditioner pads its tokens to a fixed length.
"""

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoiser
from unnoise.core.errors import InputError
from unnoise.core.predictions import Prediction
from unnoise.core.state import Cond, State, batch_size, tree_map

MICRO_BATCH = 1


class MicroBatched(Denoiser):
    """A denoiser that calls another one with exactly `size` rows at a time; the last rows are repeated to fill up."""

    def __init__(self, denoiser: Denoiser, size: int = MICRO_BATCH) -> None:
        super().__init__()
        if size < 1:
            raise InputError(f"micro-batch size {size}: at least 1 is needed")
        self.denoiser, self.process, self.size = denoiser, denoiser.process, size

    def forward(self, x_t: State, t: Tensor, cond: Cond) -> Prediction:
        n = batch_size(x_t)
        parts = [
            self.denoiser(
                tree_map(lambda a, i=i: self._rows(a, i), x_t), self._rows(t, i), {k: self._rows(v, i) for k, v in cond.items()}
            )
            for i in range(0, n, self.size)
        ]
        return parts[0].map(lambda *a: torch.cat(a)[:n], *parts[1:])

    def _rows(self, a: Tensor, first: int) -> Tensor:
        """Rows first ... first + size - 1 in memory of their own: the alignment and strides of the batch must not matter either."""
        index = torch.arange(first, first + self.size, device=a.device).clamp(max=len(a) - 1)
        return a[index].contiguous()


def microbatched(denoiser: Denoiser, size: int = MICRO_BATCH) -> Denoiser:
    """The denoiser with results that do not depend on a sample's company."""
    return MicroBatched(denoiser, size)

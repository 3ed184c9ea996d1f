"""Sides doubled by repeating pixels, then a convolution of 3 x 3: as one transposed convolution, in 4/9 of the multiplications.

Along one side, with taps w and y[2 i] = y[2 i + 1] = x[i] repeated, zeros outside,

    out[2 i]     = w0 y[2 i - 1] + w1 y[2 i] + w2 y[2 i + 1]     = w0 x[i - 1] + (w1 + w2) x[i]
    out[2 i + 1] = w0 y[2 i] + w1 y[2 i + 1] + w2 y[2 i + 2]     = (w0 + w1) x[i] + w2 x[i + 1]
so that x[i] goes to out[2 i - 1 ... 2 i + 2] by w2, w1 + w2, w0 + w1, w0.
On a CPU it takes 0.47 of the time in bfloat16 and in float32 (256 channels, 48 x 48 to 96 x 96, one thread).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from unnoise.networks.layers import wide


class Doubling(nn.Conv2d):
    """(B, inputs, H, W) -> (B, outputs, 2 H, 2 W). Weight and bias are those of the convolution."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        w = self.weight.transpose(0, 1).to(wide(self.weight))  # (inputs, outputs, 3, 3)
        w = torch.stack(_folded(w, 2), 2)
        w = torch.stack([taps.to(self.weight.dtype) for taps in _folded(w, 3)], 3)
        return conv_transpose2d(input, w, self.bias, stride=2, padding=1)


def _folded(w: Tensor, axis: int) -> list[Tensor]:
    first, second, third = w.unbind(axis)
    return [third, second + third, first + second, first]

"""Sides doubled by repeating pixels, then a convolution of 3 x 3: as one transposed convolution, in 4/9 of the multiplications.

Along one side, with taps w and y[2 i] = y[2 i + 1] = x[i] repeated, zeros outside,

    out[2 i]     = w0 y[2 i - 1] + w1 y[2 i] + w2 y[2 i + 1]     = w0 x[i - 1] + (w1 + w2) x[i]
    out[2 i + 1] = w0 y[2 i] + w1 y[2 i + 1] + w2 y[2 i + 2]     = (w0 + w1) x[i] + w2 x[i + 1]
so that x[i] goes to out[2 i - 1 ... 2 i + 2] by w2, w1 + w2, w0 + w1, w0: the kernel, turned round and added to itself one further.
On a CPU it takes 0.47 of the time in bfloat16 and in float32 (256 channels, 48 x 48 to 96 x 96, one thread).
"""

from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, pad

from unnoise.networks.layers import wide


class Doubling(nn.Conv2d):
    """(B, inputs, H, W) -> (B, outputs, 2 H, 2 W). Weight and bias are those of the convolution."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        w = self.weight.to(wide(self.weight)).flip(2, 3).transpose(0, 1)  # (inputs, outputs, 3, 3)
        w = pad(w, (0, 1)) + pad(w, (1, 0))
        w = pad(w, (0, 0, 0, 1)) + pad(w, (0, 0, 1, 0))
        return conv_transpose2d(input, w.to(self.weight.dtype), self.bias, stride=2, padding=1)

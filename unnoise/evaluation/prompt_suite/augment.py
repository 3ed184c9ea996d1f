"""Wear that a judge of pictures has to see through: what a generator's pictures may differ in from renders without showing else."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad


def worn(x: Tensor) -> Tensor:
    """Pictures (B, C, H, W) in [-1, 1], every second one a little blurred, of other contrast and brightness, and noisy.

    Draws from torch's generator.
    """
    y = x[::2]
    much = torch.rand(4, len(y), 1, 1, 1)
    blurred = avg_pool2d(pad(y, (1, 1, 1, 1), mode="replicate"), 3, 1)
    y = y.lerp(blurred, 0.7 * much[0]) * (0.9 + 0.2 * much[1]) + 0.12 * (much[2] - 0.5)
    out = x.clone()
    out[::2] = (y + 0.12 * much[3] * torch.randn_like(y)).clamp(-1, 1)
    return out

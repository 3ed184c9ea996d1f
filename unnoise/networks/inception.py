"""The Inception-v3 whose last pooling layer the Fréchet inception distance is measured on, so that published numbers compare.

Szegedy et al. 2015, 1512.00567, as Google's graph of 2015-12-05 has it, with names and shapes of the weights as in the files that
torch-fidelity and pytorch-fid convert from that graph. What differs from the paper's network, each of which moves the distance:
    resize   bilinear as TensorFlow 1 did it: pixel i of the result is read at i * (size before / size after), no half pixel
    range    (x - 128) / 128 for x in 0 ... 255
    pooling  the 3x3 means inside the blocks count pixels, not the padding; the last block takes the maximum instead of the mean
    padding  none where a convolution or a pooling strides
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, max_pool2d

SIDE = 299
WIDTH = 2048


@dataclass(frozen=True)
class Conv:
    """A convolution without a bias, normalised, rectified. kernel: (height, width)."""

    name: str
    out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True

    def build(self, channels: int) -> nn.Module:
        padding = (self.kernel[0] // 2, self.kernel[1] // 2) if self.padded else 0
        convolve = nn.Conv2d(channels, self.out, self.kernel, self.stride, padding, bias=False)
        return nn.Sequential(OrderedDict(conv=convolve, bn=nn.BatchNorm2d(self.out, eps=1e-3), relu=nn.ReLU(inplace=True)))


class Pool(Enum):
    """3x3. MEAN and MAX keep the size; HALVE is a maximum with stride 2."""

    MEAN = "mean"
    MAX = "max"
    HALVE = "halve"

    def __call__(self, x: Tensor) -> Tensor:
        if self is Pool.MEAN:
            return avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return max_pool2d(x, 3, stride=1, padding=1) if self is Pool.MAX else max_pool2d(x, 3, stride=2)


Fork = tuple[Conv, ...]
Path = tuple[Conv | Pool | Fork, ...]
"""One after another; of a fork all, side by side, their channels one after another."""


class Mixed(nn.Module):
    """All paths side by side, their channels one after another."""

    def __init__(self, channels: int, paths: tuple[Path, ...]) -> None:
        super().__init__()
        self.paths = paths
        self.width = 0
        for path in paths:
            width = channels
            for step in path:
                if isinstance(step, Pool):
                    continue
                convs = (step,) if isinstance(step, Conv) else step
                for conv in convs:
                    self.add_module(conv.name, conv.build(width))
                width = sum(conv.out for conv in convs)
            self.width += width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._along(path, x) for path in self.paths], 1)

    def _along(self, path: Path, x: Tensor) -> Tensor:
        for step in path:
            if isinstance(step, Pool):
                x = step(x)
            elif isinstance(step, Conv):
                x = self.get_submodule(step.name)(x)
            else:
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in step], 1)
        return x


def _35(pooled: int) -> tuple[Path, ...]:
    """Figure 5 of the paper: at 35x35."""
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        (Pool.MEAN, Conv("branch_pool", pooled)),
    )


_35_TO_17: tuple[Path, ...] = (
    (Conv("branch3x3", 384, (3, 3), 2, padded=False),),
    (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3), 2, padded=False)),
    (Pool.HALVE,),
)


def _17(c: int) -> tuple[Path, ...]:
    """Figure 6, n = 7: at 17x17."""
    across, down = (1, 7), (7, 1)
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", c), Conv("branch7x7_2", c, across), Conv("branch7x7_3", 192, down)),
        (
            Conv("branch7x7dbl_1", c),
            Conv("branch7x7dbl_2", c, down),
            Conv("branch7x7dbl_3", c, across),
            Conv("branch7x7dbl_4", c, down),
            Conv("branch7x7dbl_5", 192, across),
        ),
        (Pool.MEAN, Conv("branch_pool", 192)),
    )


_17_TO_8: tuple[Path, ...] = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, padded=False)),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2, padded=False),
    ),
    (Pool.HALVE,),
)


def _8(pool: Pool) -> tuple[Path, ...]:
    """Figure 7: at 8x8."""
    fork = (1, 3), (3, 1)
    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), (Conv("branch3x3_2a", 384, fork[0]), Conv("branch3x3_2b", 384, fork[1]))),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, fork[0]), Conv("branch3x3dbl_3b", 384, fork[1])),
        ),
        (pool, Conv("branch_pool", 192)),
    )


_STEM: Path = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2, padded=False),
    Conv("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    Pool.HALVE,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padded=False),
    Pool.HALVE,
)

_BLOCKS: dict[str, tuple[Path, ...]] = {
    "Mixed_5b": _35(32),
    "Mixed_5c": _35(64),
    "Mixed_5d": _35(64),
    "Mixed_6a": _35_TO_17,
    "Mixed_6b": _17(128),
    "Mixed_6c": _17(160),
    "Mixed_6d": _17(160),
    "Mixed_6e": _17(192),
    "Mixed_7a": _17_TO_8,
    "Mixed_7b": _8(Pool.MEAN),
    "Mixed_7c": _8(Pool.MAX),
}


class Inception(Mixed):
    """uint8 pictures (n, 3, H, W) of any size -> (n, 2048), float32. The classifying layer `fc` of the files is not needed."""

    def __init__(self) -> None:
        super().__init__(3, (_STEM,))
        channels = self.width
        for name, paths in _BLOCKS.items():
            block = Mixed(channels, paths)
            self.add_module(name, block)
            channels = block.width

    def forward(self, x: Tensor) -> Tensor:
        x = (resize(x.float(), SIDE, SIDE) - 128) / 128
        x = super().forward(x.contiguous(memory_format=torch.channels_last))
        for name in _BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """(n, C, H, W), floating, to another size, as tf.image.resize_bilinear of TensorFlow 1 with align_corners=False."""
    return _resize(_resize(x, 3, width), 2, height)


def _resize(x: Tensor, axis: int, size: int) -> Tensor:
    before = x.shape[axis]
    place = torch.arange(size, dtype=torch.float32, device=x.device) * torch.tensor(before / size, dtype=torch.float32)
    low = place.long()
    high = (low + 1).clamp_max(before - 1)
    part = (place - low).view([-1 if i == axis else 1 for i in range(4)])
    a, b = x.index_select(axis, low), x.index_select(axis, high)
    return a + (b - a) * part

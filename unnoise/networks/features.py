"""Small networks that turn a row into a vector: quick enough for a slow CPU, for rows of any size.

Convolutional: a pyramid whose sides halve and whose widths double from level to level, so that every level costs about the same
and a larger picture costs little more; residual blocks (He et al. 2016, 1512.03385) of one 3x3 convolution in the last three
levels; and a linear layer over all that is left, which keeps what is where in the picture. Batch normalisation (Ioffe & Szegedy
2015, 1502.03167): in `eval` the network is a fixed function of each row alone.
"""

import math
from abc import ABC
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu


class Features(nn.Module, ABC):
    """Rows (n, ...) -> (n, width), none of them negative."""

    width: int


def feature_network(shape: tuple[int, ...]) -> Features:
    """For rows of this shape: (D,) numbers, (T, C) a sequence of channels, or (C, H, W) a picture.

    Raises ValueError for another shape.
    """
    match shape:
        case (d,):
            return VectorFeatures(d)
        case (t, c):
            return SequenceFeatures(t, c)
        case (c, h, w):
            return PictureFeatures(c, h, w)
    raise ValueError(f"rows of shape {shape}: (D,), (T, C) or (C, H, W) are meant")


class PictureFeatures(Features):
    """(n, C, H, W) -> (n, features)"""

    def __init__(self, channels: int, height: int, width: int, features: int = 128) -> None:
        super().__init__()
        self.width = features
        halvings = max(1, round(math.log2(max(height, width) / 4)))  # 32 -> 16 -> 8 -> 4
        levels = min(halvings, 4)
        first = 2 ** (halvings - levels + 1)  # how far the first convolution strides: what is larger than 64 is made 32 at once
        sides = (height > 1, width > 1)
        widths = [self.width >> (levels - 1 - i) for i in range(levels)]
        layers: list[nn.Module] = [nn.ZeroPad2d((0, -width % first if sides[1] else 0, 0, -height % first if sides[0] else 0))]
        left = height, width
        for i, (w_in, w_out) in enumerate(zip([channels, *widths], widths)):
            stride = first if i == 0 else 2
            left = -(-left[0] // stride), -(-left[1] // stride)
            layers.append(normalised_convolution(w_in, w_out, sides, stride))
            if i >= levels - 3:
                layers.append(NormalisedResidual(w_out, sides))
        self.layers = nn.Sequential(*layers)
        self.gather = _linear(math.prod(left) * widths[-1], self.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.gather(self.layers(x.contiguous(memory_format=torch.channels_last)).flatten(1))

    def maps(self, x: Tensor) -> list[Tensor]:
        """What every layer makes of pictures, finest first: each (n, c, h, w), none of it negative."""
        out = [x.contiguous(memory_format=torch.channels_last)]
        for layer in self.layers:
            out.append(layer(out[-1]))
        return out[2:]  # without the picture itself and its padding


def feature_distance(network: PictureFeatures, x: Tensor, y: Tensor) -> Tensor:
    """How far pictures (n, C, H, W) are apart as the network sees them: (n,), 0 to 2.

    Mean over layers and places of |u(x) - u(y)|^2, u the features of a place at unit length (LPIPS, Zhang et al. 2018, 1801.03924,
    eq. 1, with all weights alike).
    """
    pairs = zip(network.maps(x), network.maps(y))
    each = [(normalize(a.float(), dim=1) - normalize(b.float(), dim=1)).square().sum(1).flatten(1).mean(1) for a, b in pairs]
    return torch.stack(each).mean(0)


class SequenceFeatures(Features):
    """(n, T, C) -> (n, 128): the same, along time alone."""

    def __init__(self, length: int, channels: int) -> None:
        super().__init__()
        self.picture = PictureFeatures(channels, length, 1)
        self.width = self.picture.width

    def forward(self, x: Tensor) -> Tensor:
        return self.picture(x.transpose(1, 2)[..., None])


class VectorFeatures(Features):
    """(n, D) -> (n, 64)"""

    width = 64

    def __init__(self, dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_linear(a, b) for a, b in pairwise([dim, hidden, hidden, self.width])))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _linear(w_in: int, w_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(w_in, w_out, bias=False), nn.BatchNorm1d(w_out), nn.ReLU(inplace=True))


def normalised_convolution(w_in: int, w_out: int, sides: tuple[bool, bool] = (True, True), stride: int = 2) -> nn.Sequential:
    """3x3 with stride 1 or 2; with a longer one, squares that lie side by side. Whatever is n long becomes ceil(n / stride)."""
    kernel, padding = (3, 1) if stride <= 2 else (stride, 0)
    convolve = nn.Conv2d(w_in, w_out, _along(sides, kernel, 1), _along(sides, stride, 1), _along(sides, padding, 0), bias=False)
    return nn.Sequential(convolve, nn.BatchNorm2d(w_out), nn.ReLU(inplace=True))


class NormalisedResidual(nn.Module):
    """relu(x + normalise(convolve(x))); at first the identity."""

    def __init__(self, width: int, sides: tuple[bool, bool] = (True, True)) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(width, width, _along(sides, 3, 1), padding=_along(sides, 1, 0), bias=False)
        self.normalise = nn.BatchNorm2d(width)
        nn.init.zeros_(self.normalise.weight)

    def forward(self, x: Tensor) -> Tensor:
        return relu(x + self.normalise(self.convolve(x)))


def _along(sides: tuple[bool, bool], there: int, missing: int) -> tuple[int, int]:
    return there if sides[0] else missing, there if sides[1] else missing

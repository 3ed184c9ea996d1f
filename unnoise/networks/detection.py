"""Networks that say what stands where in a picture, and what a line of capitals reads.

Detection, as in CenterNet ("Objects as points", Zhou et al. 2019, 1904.07850): a pyramid down to 1/16 of the side and back up to
1/4 (feature pyramids, Lin et al. 2017, 1612.03144); each cell of that map says for each scale how likely the centre of a thing of
that scale lies in it, how far its box reaches to four sides, and what it is. Scales have maps of their own, so that a small thing
in the middle of a large one is found too.

Reading: columns of features, a letter or a blank for each, as in CRNN (Shi et al. 2015, 1507.05717) without its recurrent part.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, softplus

from unnoise.networks.features import NormalisedResidual, normalised_convolution

STRIDE = 4
"""Pixels that a cell of the detector's map is wide and high."""


@dataclass(frozen=True)
class Found:
    """What a detector says of every cell; h, w = ceil(H / 4), ceil(W / 4), S scales.

    centre: logits (B, S, h, w). reach: (B, S, 4, h, w), from the cell's centre to the left, upper, right and lower side of the box,
    in cells, not negative. labels: one (B, S, K, h, w) of logits for each set of K labels.
    """

    centre: Tensor
    reach: Tensor
    labels: tuple[Tensor, ...]


class DetectionNetwork(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> Found. scales: how many. labels: the sizes of the sets of labels."""

    def __init__(self, scales: int, labels: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        self.scales, self.sizes = scales, labels
        w = width
        self.fine = nn.Sequential(normalised_convolution(3, w), NormalisedResidual(w), normalised_convolution(w, 2 * w))
        self.level4 = NormalisedResidual(2 * w)
        self.level8 = nn.Sequential(normalised_convolution(2 * w, 3 * w), NormalisedResidual(3 * w))
        self.level16 = nn.Sequential(normalised_convolution(3 * w, 4 * w), NormalisedResidual(4 * w))
        self.to8, self.to4 = nn.Conv2d(4 * w, 3 * w, 1), nn.Conv2d(3 * w, 2 * w, 1)
        self.up8, self.up4 = NormalisedResidual(3 * w), NormalisedResidual(2 * w)
        self.head = normalised_convolution(2 * w, 3 * w, stride=1)
        self.out = nn.Conv2d(3 * w, scales * (5 + sum(labels)), 1)
        with torch.no_grad():
            assert self.out.bias is not None
            self.out.bias.zero_()
            self.out.bias[:scales] = -4.0  # few cells are centres

    def forward(self, x: Tensor) -> Found:
        at4 = self.level4(self.fine(x.contiguous(memory_format=torch.channels_last)))
        at8 = self.level8(at4)
        at8 = self.up8(at8 + _grown(self.to8(self.level16(at8)), at8))
        at4 = self.up4(at4 + _grown(self.to4(at8), at4))
        out = self.out(self.head(at4))
        centre, reach, *labels = out.split([self.scales * n for n in (1, 4, *self.sizes)], 1)
        return Found(
            centre,
            softplus(reach.unflatten(1, (self.scales, 4))),
            tuple(part.unflatten(1, (self.scales, n)) for part, n in zip(labels, self.sizes)),
        )


def _grown(x: Tensor, like: Tensor) -> Tensor:
    return interpolate(x, like.shape[-2:], mode="nearest")


class ReadingNetwork(nn.Module):
    """Lines of letters (B, 3, 24, W) in [-1, 1] -> logits (B, W / 2, 1 + letters) of what each column shows; 0 is the blank."""

    HEIGHT = 24

    def __init__(self, letters: int, width: int = 24) -> None:
        super().__init__()
        w = width
        self.columns = nn.Sequential(
            normalised_convolution(3, w, stride=1),
            nn.MaxPool2d(2),
            normalised_convolution(w, 2 * w, stride=1),
            NormalisedResidual(2 * w),
            nn.MaxPool2d((2, 1)),
            normalised_convolution(2 * w, 3 * w, stride=1),
            nn.MaxPool2d((2, 1)),
            NormalisedResidual(3 * w),
        )
        self.gather = nn.Sequential(
            nn.Conv1d(3 * w * (self.HEIGHT // 8), 4 * w, 3, padding=1, bias=False), nn.BatchNorm1d(4 * w), nn.ReLU(),
            nn.Conv1d(4 * w, 4 * w, 3, padding=1, bias=False), nn.BatchNorm1d(4 * w), nn.ReLU(),
        )  # fmt: skip
        self.tell = nn.Conv1d(4 * w, 1 + letters, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tell(self.gather(self.columns(x.contiguous(memory_format=torch.channels_last)).flatten(1, 2))).transpose(1, 2)

"""Rows altered a little, so that a network has to learn what they are rather than the numbers that they happen to have.

    moved       pictures and sequences, by up to a thirtieth of their sides: what a classifier of few rows is to overlook
    hidden      a window of a picture or a stretch of a sequence becomes the mean (cut-out, DeVries & Taylor 2017, 1708.04552); of
                a vector some numbers become other rows' (VIME, Yoon et al. 2020, section 4.1, the marginals kept)
Neither blurs, adds noise or changes colours: features that overlooked these could not tell a generator that gets them wrong.
All draws are from torch's generator.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

_HIDDEN = 0.3  # of each side of a picture, or of a vector's numbers


def moved(x: Tensor) -> Tensor:
    """(n, C, H, W) or (n, T, C) by so many places along each side, the edges repeated; vectors (n, D) as they are."""
    if x.ndim == 2:
        return x
    if x.ndim == 3:
        return moved(x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
    n, channels, *sides = x.shape
    most = [math.ceil(s / 30) if s > 1 else 0 for s in sides]
    x = pad(x, (most[1], most[1], most[0], most[0]), mode="replicate")
    rows, columns = (torch.arange(s) + torch.randint(0, 2 * m + 1, (n, 1)) for s, m in zip(sides, most))  # (n, H), (n, W)
    each, channel = torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None]
    return x[each, channel, rows[:, None, :, None], columns[:, None, None, :]]


def hidden(x: Tensor) -> Tensor:
    """Of each row (n, ...) a part, another one for each."""
    if x.ndim == 2:
        others = torch.stack([column[torch.randperm(len(x))] for column in x.T], 1)
        return torch.where(torch.rand(x.shape) < _HIDDEN, others, x)
    if x.ndim == 3:
        return hidden(x.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
    inside = torch.ones(len(x), 1, 1, 1, dtype=torch.bool)
    for axis, side in ((2, x.shape[2]), (3, x.shape[3])):
        long = math.ceil(_HIDDEN * side)
        first = torch.randint(0, side - long + 1, (len(x), 1))
        place = torch.arange(side)
        within = (place >= first) & (place < first + long)  # (n, side)
        inside = inside & within.view([len(x), 1, *(side if a == axis else 1 for a in (2, 3))])
    return torch.where(inside, x.mean((2, 3), keepdim=True), x)

"""Boxes as a picture: what lies where, as a network is told it pixel by pixel.

K slots, the nearest first, each with a kind, a colour and a box (x0, y0, x1, y1) in 0 ... 1, y down. Of the cell of column c among
W columns a box covers the share  clip(min(x1, (c+1)/W) - max(x0, c/W), 0) W,  likewise down; their product is c_k in [0, 1].
Slots are laid one over the other as Porter & Duff 1984 lay pictures ("over"), and once more what is left over below that:

    front   w_k = c_k prod_{j<k} (1 - c_j)            behind   the same, of c_k - w_k

so that a thing before another hides nothing of what the network is told. Where a slot shows, the network hears of it

    e(kind) + e(colour), the colour itself, log of width and height, and the place (u, v) in its box, -1 ... 1 between its edges,

in sines and cosines. u jumps where one box ends and the next begins, so things that touch stay apart. Two layers that see one pixel
alone turn this into `channels` numbers: a picture of each kind of thing as a function of (u, v) (after Sitzmann et al. 2020,
2006.09661), which is computed once a sample and not once a step.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

LAYERS = 2
"""What is in front and what is behind it; a third thing at one place is not told of."""
_WAVES = (0.5, 1.0, 2.0, 4.0)  # half periods of a sine over a box's half side


@dataclass(frozen=True)
class RasterConfig:
    """kinds: what a slot may be, 0 for nothing. palette: red, green and blue of every colour in [-1, 1], the first one for none.

    extra: channels of a picture that is told beside the boxes.
    """

    kinds: int
    palette: tuple[tuple[float, float, float], ...]
    channels: int = 16
    extra: int = 0
    width: int = 16
    hidden: int = 64

    def build(self) -> "Raster":
        return Raster(self)


class Raster(nn.Module):
    def __init__(self, config: RasterConfig) -> None:
        super().__init__()
        self.config = config
        self.kind, self.colour = nn.Embedding(config.kinds, config.width), nn.Embedding(len(config.palette), config.width)
        self.palette: Tensor
        self.register_buffer("palette", torch.tensor(config.palette), persistent=False)
        told = LAYERS * (config.width + 6 + 4 * len(_WAVES)) + config.extra
        self.first, self.second = nn.Linear(told, config.hidden), nn.Linear(config.hidden, config.hidden)
        self.last = nn.Linear(config.hidden, config.channels)

    def forward(self, slots: Mapping[str, Tensor], extra: Tensor | None, size: tuple[int, int]) -> Tensor:
        """slots: `kind` and `colour` (B, K) int64, `box` (B, K, 4); extra (B, extra, H, W); size (H, W)
        -> (B, channels + extra, H, W), the extra channels last, as they came. A slot of kind 0 shows nothing."""
        used = max(1, int((slots["kind"] > 0).sum(1).max())) if len(slots["kind"]) else 1  # the empty ones come last
        kind, colour, box = (slots[name][:, :used] for name in ("kind", "colour", "box"))
        about, across, down = self._slots(kind, colour, box)
        told = []
        for shown in layers(cover(box, size) * (kind > 0)[..., None, None]):
            told.append(self._seen(shown, about, across, down))
        if extra is not None:
            told.append(extra.to(about.dtype).permute(0, 2, 3, 1))
        h = silu(self.second(silu(self.first(torch.cat(told, -1)))))
        picture = self.last(h).permute(0, 3, 1, 2)
        return picture if extra is None else torch.cat([picture, extra.to(picture.dtype)], 1)

    def _slots(self, kind: Tensor, colour: Tensor, box: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is said of each slot (B, K, width + 6), and u, v as a x + b: the a and b of both (B, K, 2)."""
        wide, high = (box[..., 2:] - box[..., :2]).clamp(min=1e-3).unbind(-1)
        sizes = _stacked(torch.ones_like(wide), wide.log(), high.log())
        about = torch.cat([self.kind(kind) + self.colour(colour), self.palette[colour], sizes], -1)
        across, down = ((2 / side, -1 - 2 * box[..., i] / side) for i, side in ((0, wide), (1, high)))
        return about, _stacked(*across), _stacked(*down)

    def _seen(self, shown: Tensor, about: Tensor, across: Tensor, down: Tensor) -> Tensor:
        """One layer's weights (B, K, H, W) -> what each pixel hears of it: (B, H, W, width + 6 + waves)."""
        height, width = shown.shape[-2:]
        mixed = torch.einsum("bkhw,bkf->bhwf", shown, torch.cat([about, across, down], -1))
        said, a, b, c, d = mixed.split([about.shape[-1], 1, 1, 1, 1], -1)
        x = (torch.arange(width, device=shown.device) + 0.5) / width
        y = (torch.arange(height, device=shown.device) + 0.5) / height
        place = torch.cat([a * x[:, None] + b, c * y[:, None, None] + d], -1)  # (B, H, W, 2)
        angle = (place[..., None] * (math.pi * place.new_tensor(_WAVES))).flatten(-2)
        weight = said[..., -3:-2]  # how much of the pixel the layer covers
        return torch.cat([said, weight * angle.sin(), weight * angle.cos()], -1)


def _stacked(*values: Tensor) -> Tensor:
    return torch.stack(values, -1)


def cover(box: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of every cell that each box covers: boxes (B, K, 4) -> (B, K, H, W)."""
    height, width = size
    across, down = (
        _overlap(box[..., i], box[..., i + 2], torch.arange(n + 1, device=box.device) / n) for i, n in ((0, width), (1, height))
    )
    return down[..., :, None] * across[..., None, :]


def _overlap(start: Tensor, end: Tensor, edges: Tensor) -> Tensor:
    """Intervals (B, K) and n + 1 edges -> the share of each cell that they cover, (B, K, n)."""
    low, high = torch.maximum(start[..., None], edges[:-1]), torch.minimum(end[..., None], edges[1:])
    return (high - low).clamp(min=0) * (len(edges) - 1)


def layers(covered: Tensor) -> list[Tensor]:
    """What shows in front, and what shows behind that: coverages (B, K, H, W), nearest first -> as many weights for each layer."""
    out = []
    for _ in range(LAYERS):
        free = torch.cat([torch.ones_like(covered[:, :1]), (1 - covered[:, :-1]).cumprod(1)], 1)
        out.append(covered * free)
        covered = covered - out[-1]
    return out

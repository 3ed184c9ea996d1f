"""Boxes as a picture: what lies where, as a network is told it pixel by pixel.

K slots, the nearest first, each with a kind, a colour and a box (x0, y0, x1, y1) in 0 ... 1, y down. Of the cell of column c among
W columns a box covers the share  clip(min(x1, (c+1)/W) - max(x0, c/W), 0) W,  likewise down; their product, times the opacity of
the kind there, is c_k in [0, 1]. Slots are laid one over the other as Porter & Duff 1984 lay pictures ("over"), and once more what
is left over below that:

    front   w_k = c_k prod_{j<k} (1 - c_j)            behind   the same, of c_k - w_k

so that a thing before another hides nothing of what the network is told. Where a slot shows, the network hears of it

    its kind's texture at the place (u, v) in the box, its colour, (u, v) themselves, the logs of the box's sides.

A texture is TEXELS x TEXELS learned vectors, read bilinearly (neural textures: Thies et al. 2019, 1904.12356), the last number of
each the logit of the opacity: what a thing looks like, and what is seen past it, is learnt where it is needed. u and v, -1 at the
first edge and 1 at the last, jump where a box ends and the next begins, so things that touch stay apart. Two layers that see one
pixel alone turn all this into `channels` numbers, once a sample and not once a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

LAYERS = 2
"""What is in front and what is behind it; a third thing at one place is not told of."""
TEXELS = 16
_ABOUT = 8  # numbers that are told of a slot beside its texture
_OPAQUE = 3.0  # the logit at first


@dataclass(frozen=True)
class RasterConfig:
    """kinds: what a slot may be, 0 for nothing. palette: red, green and blue of every colour in [-1, 1], the first one for none.

    extra: channels of a picture that is told beside the boxes. width: numbers in a texel beside its opacity.
    """

    kinds: int
    palette: tuple[tuple[float, float, float], ...]
    channels: int = 16
    extra: int = 0
    width: int = 8
    hidden: int = 64

    def build(self) -> "Raster":
        return Raster(self)


class Raster(nn.Module):
    def __init__(self, config: RasterConfig) -> None:
        super().__init__()
        self.config = config
        self.texture = nn.Parameter(torch.randn(config.kinds, config.width + 1, TEXELS, TEXELS) * 0.5)
        nn.init.constant_(self.texture.data[:, -1], _OPAQUE)
        self.palette: Tensor
        self.register_buffer("palette", torch.tensor(config.palette), persistent=False)
        told = LAYERS * (config.width + _ABOUT) + config.extra
        self.first, self.second = nn.Linear(told, config.hidden), nn.Linear(config.hidden, config.hidden)
        self.last = nn.Linear(config.hidden, config.channels)

    def forward(self, slots: Mapping[str, Tensor], extra: Tensor | None, size: tuple[int, int]) -> Tensor:
        """slots: `kind` and `colour` (B, K) int64, `box` (B, K, 4); extra (B, extra, H, W); size (H, W)
        -> (B, channels + extra, H, W), the extra channels last, as they came. A slot of kind 0 shows nothing."""
        used = max(1, int((slots["kind"] > 0).sum(1).max())) if len(slots["kind"]) else 1  # the empty ones come last
        kind, colour, box = (slots[name][:, :used] for name in ("kind", "colour", "box"))
        across, down = (places(box[..., i], box[..., i + 2], n) for i, n in ((0, size[1]), (1, size[0])))  # (B, K, W), (B, K, H)
        read = torch.einsum("bkcij,bkwj,bkhi->bkchw", self.texture[kind], texels(across), texels(down))
        textures, opacity = read[:, :, :-1], read[:, :, -1].sigmoid() * (kind > 0)[..., None, None]
        sides = (box[..., 2:] - box[..., :2]).clamp(min=1e-3).log()
        about = torch.cat([self.palette[colour], torch.ones_like(sides[..., :1]), sides], -1)
        told = []
        for shown in layers(cover(box, size) * opacity):
            told.append(torch.einsum("bkhw,bkchw->bhwc", shown, textures))
            told.append(torch.einsum("bkhw,bkf->bhwf", shown, about))
            told.append(torch.stack([torch.einsum("bkhw,bkw->bhw", shown, across), torch.einsum("bkhw,bkh->bhw", shown, down)], -1))
        if extra is not None:
            told.append(extra.to(about.dtype).permute(0, 2, 3, 1))
        h = silu(self.second(silu(self.first(torch.cat(told, -1)))))
        picture = self.last(h).permute(0, 3, 1, 2)
        return picture if extra is None else torch.cat([picture, extra.to(picture.dtype)], 1)


def places(start: Tensor, end: Tensor, n: int) -> Tensor:
    """Where the centres of n cells lie in intervals (B, K), -1 at the start and 1 at the end: (B, K, n), at most that outside."""
    centres = (torch.arange(n, device=start.device) + 0.5) / n
    return (2 * (centres - start[..., None]) / (end - start).clamp(min=1e-3)[..., None] - 1).clamp(-1, 1)


def texels(place: Tensor) -> Tensor:
    """The weights of linear interpolation between texel centres at places in [-1, 1]: (..., n) -> (..., n, TEXELS)."""
    at = ((place + 1) / 2 * TEXELS - 0.5).clamp(0, TEXELS - 1)
    return (1 - (at[..., None] - torch.arange(TEXELS, device=place.device)).abs()).clamp(min=0)


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

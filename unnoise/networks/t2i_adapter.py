"""T2I-Adapter (Mou et al. 2023, 2302.08453): a small convolutional network turns a control picture into one residual for every
level of the U-Net on its way down (`steering`), once for all steps. Pixels enter as channels (pixel unshuffle).

    full   conv, then a level each: halved, 1 x 1 to its channels, blocks  h <- h + W2 relu(W1 * h)   (* is 3 x 3, W2 1 x 1)
    XL     as full, but only the third level is halved and the last residual goes behind the middle
    light  no first conv; blocks work on a quarter of the channels, W2 too is 3 x 3, and 1 x 1 leads back to all
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

from unnoise.networks.layers import pad_to_multiple
from unnoise.networks.sd_unet import SDUNet
from unnoise.networks.steering import Steering

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue in a grey picture, as Pillow has it."""


@dataclass(frozen=True)
class T2IAdapterConfig(ABC):
    """picture_channels: 3, or 1 for a grey control picture. widths: of the levels. blocks: a level. factor: of pixel unshuffle."""

    picture_channels: int = 3
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    factor: int = 8

    @abstractmethod
    def levels(self) -> list["Level"]: ...

    @abstractmethod
    def places(self) -> list[tuple[str, int]]:
        """Kind and number of the residual that each level gives."""

    @property
    def enters(self) -> int:
        """Channels behind pixel unshuffle."""
        return self.picture_channels * self.factor**2

    @property
    def first(self) -> int:
        """Channels of the first convolution, 0 where there is none."""
        return self.widths[0]

    def build(self) -> "T2IAdapter":
        return T2IAdapter(self)


@dataclass(frozen=True)
class FullConfig(T2IAdapterConfig):
    def levels(self) -> list["Level"]:
        c = [self.widths[0], *self.widths]
        return [Level(a, b, b, self.blocks, i > 0, False) for i, (a, b) in enumerate(pairwise(c))]

    def places(self) -> list[tuple[str, int]]:
        return [("level", i) for i in range(len(self.widths))]


@dataclass(frozen=True)
class XLConfig(T2IAdapterConfig):
    factor: int = 16

    def levels(self) -> list["Level"]:
        w = self.widths
        before = [w[i - 1] if i in (1, 2) else w[i] for i in range(len(w))]
        return [Level(a, b, b, self.blocks, i == 2, False) for i, (a, b) in enumerate(zip(before, w))]

    def places(self) -> list[tuple[str, int]]:
        return [*(("level", i) for i in range(len(self.widths) - 1)), ("middle", 0)]


@dataclass(frozen=True)
class LightConfig(T2IAdapterConfig):
    widths: tuple[int, ...] = (320, 640, 1280)
    blocks: int = 4

    @property
    def first(self) -> int:
        return 0

    def levels(self) -> list["Level"]:
        c = [self.enters, *self.widths, self.widths[-1]]
        return [Level(a, b // 4, b, self.blocks, i > 0, True) for i, (a, b) in enumerate(pairwise(c))]

    def places(self) -> list[tuple[str, int]]:
        return [("level", i) for i in range(len(self.widths) + 1)]


class Block(nn.Module):
    def __init__(self, width: int, second: int) -> None:
        """second: side of the second convolution's kernel."""
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, second, padding=second // 2)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.conv2(relu(self.conv1(h)))


class Level(nn.Module):
    """c_in channels -> `width`, in which its blocks work -> c_out. light: see above."""

    def __init__(self, c_in: int, width: int, c_out: int, blocks: int, halve: bool, light: bool) -> None:
        super().__init__()
        self.halve = halve
        self.enter = nn.Conv2d(c_in, width, 1) if c_in != width or light else nn.Identity()
        self.blocks = nn.ModuleList(Block(width, 3 if light else 1) for _ in range(blocks))
        self.leave = nn.Conv2d(width, c_out, 1) if light else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        h = self.enter(avg_pool2d(h, 2, ceil_mode=True) if self.halve else h)
        for block in self.blocks:
            h = block(h)
        return self.leave(h)


class T2IAdapter(Steering):
    def __init__(self, config: T2IAdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.unshuffle = nn.PixelUnshuffle(config.factor)
        self.first = nn.Conv2d(config.enters, config.first, 3, padding=1) if config.first else nn.Identity()
        self.levels = nn.ModuleList(config.levels())

    def misfit(self, network: nn.Module) -> str:
        if not isinstance(network, SDUNet):
            return f"it steers a U-Net of Stable Diffusion, not a {type(network).__name__}"
        mine, theirs = self.config, network.config
        widths = {"level": dict(enumerate(theirs.widths)), "middle": {0: theirs.widths[-1]}}
        own = [*mine.widths, mine.widths[-1]][: len(mine.places())]
        if any(widths[kind].get(number) != w for (kind, number), w in zip(mine.places(), own)):
            return f"its widths {mine.widths} are of another family; this model has {theirs.widths}"
        return ""

    def hint(self, picture: Tensor, encode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """All there is to say. The picture's sides are padded to a multiple of the factor; levels halve as the U-Net's do."""
        x = picture.to(next(self.parameters()).dtype)
        if self.config.picture_channels == 1:
            x = (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        h = self.first(self.unshuffle(pad_to_multiple(x, self.config.factor)))
        out = {}
        for (kind, number), level in zip(self.config.places(), self.levels):
            out[f"{kind}.{number}"] = h = level(h)
        return out

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        out: dict[str, list[Tensor]] = {}
        for kind, number in self.config.places():
            out.setdefault(kind, []).append(cond[f"{kind}.{number}"])
        return out

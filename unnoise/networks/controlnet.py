"""ControlNet (Zhang et al. 2023, 2302.05543): a copy of the first part of a network, which sees a control picture beside the noised
one, and a layer that starts at zero behind each of its blocks. What these say is added to the network (`steering`).

    Stable Diffusion   the way down and the middle; the picture, eight times the size, enters through a few convolutions. Those
                       for SDXL may know several kinds of picture, and be shown several pictures at once (`SDUnionControlNet`)
    SD3, FLUX          some of the blocks; the picture enters encoded, as what is denoised does, or in those for FLUX by XLabs
                       through a few convolutions. A few blocks serve many: the residual of block i of n goes to all blocks j of m
                       with floor(j n / m) = i (SD3), floor(j / ceil(m / n)) = i (FLUX), j mod n = i (by XLabs). For SD3.5 large
                       the blocks see no words, and begin behind the network's own first layer
What is to be filled in is black in the picture, and one more channel beside its code says where that is (SD3, FLUX).
One FLUX ControlNet may know several kinds of picture (edges, depth ...): the kind's embedding is one more word, before the rest.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu

from unnoise.networks.clip_text import quick_gelu
from unnoise.networks.embedding import EmbeddingSum, NoiseFeatures, Timesteps, TwoLayers, number_features, rotary_axes
from unnoise.networks.flux import Flux, FluxConfig, FluxStem, where
from unnoise.networks.layers import pad_to_multiple, patchify, run, zeroed
from unnoise.networks.mmdit import JointBlock, PictureBlock
from unnoise.networks.sd3 import SD3, SD3Config, SD3Stem, words_and_mask
from unnoise.networks.sd_unet import SDEncoder, SDUNet, SDUNetConfig
from unnoise.networks.steering import Steering


@dataclass(frozen=True)
class SDControlNetConfig:
    """trunk: as the U-Net's. hint: channels of the convolutions that the control picture enters through; each after the first
    halves it. bgr: it was trained on blue, green and red. pooled: all positions are told the same, the mean of what they would be.
    holes: it was trained to fill in what is transparent in its picture, which it is shown as -1.
    """

    trunk: SDUNetConfig
    hint: tuple[int, ...] = (16, 32, 96, 256)
    bgr: bool = False
    pooled: bool = False
    holes: bool = False

    def build(self) -> "SDControlNet":
        return SDControlNet(self)


class Hint(nn.Module):
    """(B, 3, H, W) -> (B, width, H / f, W / f), f = 2^(len(channels) - 1)."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels[0], 3, padding=1)
        pairs = pairwise(channels)
        self.convs = nn.ModuleList(
            conv for a, b in pairs for conv in (nn.Conv2d(a, a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1, stride=2))
        )
        self.last = zeroed(nn.Conv2d(channels[-1], width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        h = silu(self.first(x))
        for conv in self.convs:
            h = silu(conv(h))
        return self.last(h)


class SDControlNet(Steering):
    def __init__(self, config: SDControlNetConfig) -> None:
        super().__init__()
        self.config, self.trunk, self.one_sided, self.holes = config, SDTrunk(config.trunk), config.pooled, config.holes
        self.embed = Hint(config.hint, config.trunk.widths[0])
        self.skips = nn.ModuleList(zeroed(nn.Conv2d(c, c, 1)) for c in self.trunk.skip_widths)
        self.middle = zeroed(nn.Conv2d(config.trunk.widths[-1], config.trunk.widths[-1], 1))

    def misfit(self, network: nn.Module) -> str:
        if not isinstance(network, SDUNet):
            return f"it steers a U-Net of Stable Diffusion, not a {type(network).__name__}"
        mine, theirs = self.config.trunk, network.config
        words = ["token_dim"] if any(mine.depths) or mine.middle else []
        for what in ("widths", "blocks", *words, "vector_dim", "channels"):
            if getattr(mine, what) != getattr(theirs, what):
                return f"its {what} {getattr(mine, what)} are of another family; this model has {getattr(theirs, what)}"
        return ""

    def hint(self, picture: Tensor, encode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The picture's sides are padded to a multiple of the factor that it is made smaller by."""
        x = picture.where(picture[:, 3:] >= 0.5, -1.0)[:, :3] if self.holes else picture
        x = pad_to_multiple(x.to(self.embed.first.weight.dtype), 2 ** (len(self.config.hint) - 1))
        return {"hint": self.embed(x.flip(1) if self.config.bgr else x)}

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        _, skips, middle = self.trunk.encode(x, noise_level, cond, cond["hint"])
        return self.said(skips, middle)

    def said(self, skips: list[Tensor], middle: Tensor) -> dict[str, list[Tensor]]:
        """What is said, from what each block of the trunk hands over and what leaves its middle."""
        out = {"skip": [zero(h) for zero, h in zip(self.skips, skips)], "middle": [self.middle(middle)]}
        if not self.config.pooled:
            return out
        return {kind: [h.mean((2, 3), keepdim=True) for h in several] for kind, several in out.items()}


class SDTrunk(SDEncoder):
    """The way down and the middle alone."""


@dataclass(frozen=True)
class SDUnionControlNetConfig(SDControlNetConfig):
    """kinds: of control pictures that it tells apart. layers: that describe a picture. kind_dim: harmonics that tell whether a kind
    is among those shown.
    """

    kinds: int = 6
    layers: int = 1
    kind_dim: int = 256

    def build(self) -> "SDUnionControlNet":
        return SDUnionControlNet(self)


class SDUnionControlNet(SDControlNet):
    """ControlNet++ (xinsir 2024): several kinds of control pictures, and several pictures at once.

    hint  =  sum_k  h_k + W describe(mean(h_k) + task_k),    h_k picture k behind the convolutions, mean over its positions
    c     =  embedding(noise level, vector) + kinds(which are shown)
    """

    several = True

    def __init__(self, config: SDUnionControlNetConfig) -> None:
        super().__init__(config)
        width = config.trunk.widths[0]
        self.kinds, self.kind_dim = config.kinds, config.kind_dim
        self.tasks = nn.Parameter(width**0.5 * torch.randn(config.kinds, width))
        self.describe = nn.Sequential(*(Describing(width) for _ in range(config.layers)))
        self.shift = zeroed(nn.Linear(width, width))
        self.shown = TwoLayers(config.kind_dim * config.kinds, 4 * width)

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """cond: `hint` (B, n, width, h, w) of n pictures, and `mode` (B, n) int64, the kinds that they are of."""
        hints, mode = cond["hint"], cond["mode"]
        shift = self.shift(self.describe(hints.mean((-2, -1)) + self.tasks[mode]))
        fused = (hints + shift[..., None, None]).sum(1)
        shown = torch.zeros(len(mode), self.kinds, device=mode.device).scatter(1, mode, 1.0)
        kind = self.shown(number_features(shown, self.kind_dim).flatten(1))
        _, skips, middle = self.trunk.encode(x, noise_level, cond, fused, kind)
        return self.said(skips, middle)


class Describing(nn.Module):
    """A block of CLIP's transformer, for one token: attention to itself alone is its value.

    As it was published its attention runs along the rows of a batch, not along the pictures (the batch is laid first where torch's
    MultiheadAttention has it second), so that a sample would depend on its neighbours. Rows that follow the same picture, as the
    two that guidance makes of a sample do, are equal, and attending to equals is attending to oneself: so does every row here.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.mlp1, self.mlp2 = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        x = x + self.out(self.qkv(self.norm1(x)).chunk(3, -1)[2])
        return x + self.mlp2(quick_gelu(self.mlp1(self.norm2(x))))


@dataclass(frozen=True)
class SD3ControlNetConfig:
    """trunk: as SD3's, with a depth of its own.

    summary: whether it reads `vector`. Those that do not were trained on encoded pictures whose mean had been left in, but for
    those that fill in what is transparent in their picture (`holes`).
    """

    trunk: SD3Config
    summary: bool = True
    holes: bool = False

    def build(self) -> "SD3ControlNet":
        return SD3ControlNet(self)


class SD3ControlNet(Steering):
    def __init__(self, config: SD3ControlNetConfig) -> None:
        super().__init__()
        trunk = config.trunk
        self.config, self.trunk, self.holes = config, SD3Trunk(trunk), config.holes
        self.centred = config.summary or config.holes
        self.embed = zeroed(nn.Conv2d(trunk.channels + config.holes, trunk.width, trunk.patch, stride=trunk.patch))
        self.residuals = nn.ModuleList(zeroed(nn.Linear(trunk.width, trunk.width)) for _ in range(trunk.depth))

    def misfit(self, network: nn.Module) -> str:
        if not isinstance(network, SD3):
            return f"it steers a transformer of Stable Diffusion 3, not a {type(network).__name__}"
        return _other(self.config.trunk, network.config)

    def hint(self, picture: Tensor, encode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {"hint": with_holes(picture, encode) if self.holes else encode(picture)}

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        trunk = self.trunk
        h = trunk.patched(x, cond)[0]
        hint = pad_to_multiple(cond["hint"].to(h.dtype), self.config.trunk.patch)
        h = h + self.embed(hint).flatten(2).transpose(1, 2)
        words, mask = words_and_mask(cond, trunk.tokens, h)
        c = trunk.summary(noise_level, cond.get("vector") if self.config.summary else None)
        out = []
        for block, zero in zip(trunk.blocks, self.residuals):
            h, words = run(block, trunk.checkpointing, h, words, c, mask)
            out.append(zero(h))
        return {"block": out}

    def source(self, place: int, own: int, places: int) -> int:
        return place * own // (places + 1)  # the last block of the network takes none, but counts


class SD3Trunk(SD3Stem):
    """Joint blocks alone."""

    def __init__(self, config: SD3Config) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList(
            JointBlock(config.width, config.heads, config.norm_qk, i in config.dual) for i in range(config.depth)
        )


@dataclass(frozen=True)
class SD3PictureControlNetConfig:
    """Of blocks that see no words. Fields as SD3Config's."""

    channels: int = 16
    patch: int = 2
    width: int = 2432
    depth: int = 19
    heads: int = 38
    vector_dim: int = 2048
    summary: bool = True
    features: NoiseFeatures = Timesteps()

    def build(self) -> "SD3PictureControlNet":
        return SD3PictureControlNet(self)


class SD3PictureControlNet(Steering):
    """Its x is (B, N, width): patches with their positions, from the network that it steers."""

    def __init__(self, config: SD3PictureControlNetConfig) -> None:
        super().__init__()
        width, p = config.width, config.patch
        self.config, self.centred = config, config.summary
        self.embedding = EmbeddingSum(config.features, 256, width, config.vector_dim)
        self.embed = zeroed(nn.Conv2d(config.channels, width, p, stride=p))
        self.blocks = nn.ModuleList(PictureBlock(width, config.heads) for _ in range(config.depth))
        self.residuals = nn.ModuleList(zeroed(nn.Linear(width, width)) for _ in range(config.depth))

    def misfit(self, network: nn.Module) -> str:
        if not isinstance(network, SD3):
            return f"it steers a transformer of Stable Diffusion 3, not a {type(network).__name__}"
        return _other(self.config, network.config, words=False)

    def hint(self, picture: Tensor, encode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        return {"hint": encode(picture)}

    def seen(self, network: nn.Module, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        assert isinstance(network, SD3)
        return network.patched(x, cond)[0]

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        dtype = self.embed.weight.dtype
        h = x.to(dtype) + self.embed(pad_to_multiple(cond["hint"].to(dtype), self.config.patch)).flatten(2).transpose(1, 2)
        c = silu(self.embedding(noise_level, cond.get("vector") if self.config.summary else None))
        out = []
        for block, zero in zip(self.blocks, self.residuals):
            h = block(h, c)
            out.append(zero(h))
        return {"block": out}

    def source(self, place: int, own: int, places: int) -> int:
        return place * own // (places + 1)


@dataclass(frozen=True)
class FluxControlNetConfig:
    """trunk: as Flux's, with fewer blocks. modes: kinds of pictures that it tells apart, 0 where it was trained on one. hint:
    channels of the convolutions that the control picture enters through, as for Stable Diffusion; none where it enters encoded.
    holes: it was trained to fill in what is transparent in its picture.
    """

    trunk: FluxConfig
    modes: int = 0
    hint: tuple[int, ...] = ()
    holes: bool = False

    def build(self) -> "FluxControlNet":
        return FluxControlNet(self)


class FluxControlNet(Steering):
    def __init__(self, config: FluxControlNetConfig) -> None:
        super().__init__()
        trunk = config.trunk
        self.config, self.trunk, self.kinds, self.holes = config, FluxTrunk(trunk), config.modes, config.holes
        self.embed = zeroed(nn.Linear((trunk.channels + config.holes) * trunk.patch**2, trunk.width))
        self.pixels = Hint(config.hint, trunk.channels) if config.hint else None
        self.modes = nn.Embedding(config.modes, trunk.width) if config.modes else None
        self.residuals = nn.ModuleList(zeroed(nn.Linear(trunk.width, trunk.width)) for _ in range(trunk.joint))
        self.single_residuals = nn.ModuleList(zeroed(nn.Linear(trunk.width, trunk.width)) for _ in range(trunk.single))

    def misfit(self, network: nn.Module) -> str:
        if not isinstance(network, Flux):
            return f"it steers a transformer of FLUX, not a {type(network).__name__}"
        return _other(self.config.trunk, network.config)

    def hint(self, picture: Tensor, encode: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        if self.pixels is None:
            return {"hint": with_holes(picture, encode) if self.holes else encode(picture)}
        x = pad_to_multiple(picture.to(self.embed.weight.dtype), 2 ** (len(self.config.hint) - 1))
        return {"hint": self.pixels(2 * x - 1)}

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """cond: `mode` (B,) int64 too, 0 where absent: the kind of the control picture."""
        trunk, p = self.trunk, self.config.trunk.patch
        h, rows, columns = trunk.patched(x, cond)
        h = h + self.embed(patchify(pad_to_multiple(cond["hint"].to(h.dtype), p), p))
        words, mask = words_and_mask(cond, trunk.tokens, h)
        if self.modes is not None:
            mode = cond["mode"] if "mode" in cond else torch.zeros(len(x), dtype=torch.long, device=x.device)
            words = torch.cat([self.modes(mode)[:, None].to(words.dtype), words], 1)
            mask = None if mask is None else torch.cat([mask.new_ones(len(mask), 1), mask], 1)
        rotary = rotary_axes(where(words.shape[1], rows, columns, x.device), self.config.trunk.axes)
        c = trunk.summary(noise_level, cond)
        out: dict[str, list[Tensor]] = {"block": [], "single": []}
        for block, zero in zip(trunk.blocks, self.residuals):
            h, words = run(block, trunk.checkpointing, h, words, c, mask, (), rotary)
            out["block"].append(zero(h))
        z = torch.cat([words, h], 1)
        for block, zero in zip(trunk.singles, self.single_residuals):
            z = run(block, trunk.checkpointing, z, c, mask, rotary)
            out["single"].append(zero(z[:, words.shape[1] :]))
        return out

    def source(self, place: int, own: int, places: int) -> int:
        return place // -(-places // own) if self.pixels is None else place % own


class FluxTrunk(FluxStem):
    """All but the last layer."""


def with_holes(picture: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """(B, 4, H, W) in [0, 1], opacity last -> (B, C + 1, h, w): the code, black where it is transparent, and 1 where it is not."""
    kept = (picture[:, 3:] >= 0.5).to(picture)
    code = encode(picture[:, :3] * kept)
    return torch.cat([code, interpolate(kept, code.shape[-2:]).to(code)], 1)


def _other(mine: object, theirs: object, words: bool = True) -> str:
    """Why the sizes of two transformers differ; empty where they do not. words: whether the width of words counts."""
    for what in ("width", "patch", "channels", "vector_dim", *(["token_dim"] if words else [])):
        if getattr(mine, what) != getattr(theirs, what):
            return f"its {what} {getattr(mine, what)} is of another size; this model has {getattr(theirs, what)}"
    return ""

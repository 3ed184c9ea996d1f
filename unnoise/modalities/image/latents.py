"""Pictures <-> codes of an autoencoder that was trained before (latent diffusion, Rombach et al. 2022, 2112.10752).

    state = (encode(x) - mean) / std     per channel, of the codes of training pictures, so that a state is of unit size
    x = decode(std state + mean)
The two are buffers, measured once the autoencoder is trained, or an open checkpoint's shift and 1 / scaling factor: no such number
is left to whoever uses the codec. Cast the autoencoder alone (`codec.autoencoder.bfloat16()`): they stay in float32.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unnoise.core.codec import Codec
from unnoise.core.errors import InputError
from unnoise.core.hashing import tensors_hash
from unnoise.core.state import State
from unnoise.modalities.image.codec import PixelsConfig
from unnoise.modalities.image.show import write_pictures
from unnoise.modalities.image.tiling import Tiling, tiled
from unnoise.networks.layers import pad_to_multiple
from unnoise.networks.picture_autoencoder import PictureAutoencoderConfig


@dataclass(frozen=True)
class LatentsConfig:
    """Pictures of `height` x `width` pixels; `channels` 1 (grey), 3 (RGB) or 4 (RGBA).

    Sides that the autoencoder's factor does not divide are padded by repeating the border, and cropped again. Larger pictures than
    `tile` pixels a side are coded in tiles (see `tiling`): exactly as the whole where the autoencoder's reach is finite. Where it
    is not, two tiles missed 6 to 10 % of the whole's spread, and 18 to 28 % where the codes' size grew fourfold from top to bottom
    (random weights; the tests bound it): make tiles as large as memory allows.
    """

    height: int
    width: int
    channels: int
    autoencoder: PictureAutoencoderConfig
    tile: int = 512

    def __post_init__(self) -> None:
        PixelsConfig(self.height, self.width, self.channels)  # refuses sizes that are none
        if self.autoencoder.channels != self.channels:
            raise InputError(
                f"an autoencoder of {self.autoencoder.channels} channels does not fit pictures of {self.channels}: train another"
            )

    @property
    def latent_channels(self) -> int:
        return self.autoencoder.latent_channels

    def build(self) -> "Latents":
        return Latents(self)


class Latents(Codec):
    """Frozen: its weights ask for no gradients."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: LatentsConfig) -> None:
        super().__init__()
        self.config = config
        self.pixels = PixelsConfig(config.height, config.width, config.channels).build()
        self.autoencoder = config.autoencoder.build()
        self.register_buffer("mean", torch.zeros(config.latent_channels))
        self.register_buffer("std", torch.ones(config.latent_channels))
        self.requires_grad_(False)

    def shape(self) -> tuple[int, int, int]:
        f = self.config.autoencoder.factor
        return self.config.latent_channels, -(-self.config.height // f), -(-self.config.width // f)

    def resized(self, height: int, width: int) -> "Latents":
        """The same autoencoder for pictures of height x width pixels; they share their weights."""
        other = copy(self)
        other.config = replace(self.config, height=height, width=width)
        other._modules = {**self._modules, "pixels": self.pixels.resized(height, width)}
        return other

    def hash(self) -> str:
        """The sha256 of its weights: what cached states are known by."""
        return tensors_hash(self.state_dict())

    @torch.no_grad()
    def settle(self, batches: Iterable[np.ndarray | Tensor]) -> None:
        """The statistics of its batch normalisations, if it has any, anew from these pictures: those of training belong to weights
        that were not averaged (as torch.optim.swa_utils.update_bn)."""
        norms = {m: m.momentum for m in self.autoencoder.modules() if isinstance(m, nn.BatchNorm2d)}
        if not norms:
            return
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        for batch in batches:
            self._codes(self.pixels.encode(batch))
        for norm, momentum in norms.items():
            norm.momentum = momentum
            norm.eval()

    @torch.no_grad()
    def measure(self, batches: Iterable[np.ndarray | Tensor]) -> None:
        """Set mean and std to those of the codes of these batches of pictures, uint8 (B, H, W, C)."""
        total = square = torch.zeros(self.config.latent_channels, dtype=torch.float64)
        count = 0
        for batch in batches:
            z = self._codes(self.pixels.encode(batch)).movedim(1, -1).flatten(0, -2).double().cpu()
            count, total, square = count + len(z), total + z.sum(0), square + z.square().sum(0)
        if not count:
            raise InputError("there are no pictures to measure the codes of; give at least one batch")
        mean = total / count
        self.mean.copy_(mean)
        self.std.copy_((square / count - mean.square()).clamp(min=0).sqrt().clamp(min=1e-3))  # a dead channel stays near 0

    @torch.no_grad()
    def encode(self, data: np.ndarray | Tensor) -> Tensor:
        """uint8 (B, H, W, C) -> float32 (B, c, h, w) of about unit size, on its device. InputError for another size or type."""
        return self.encoded(self.pixels.encode(data))

    @torch.no_grad()
    def encoded(self, x: Tensor) -> Tensor:
        """As `encode`, of pictures that are float (B, C, H, W) in -1 ... 1 already."""
        return (self._codes(x) - _each(self.mean)) / _each(self.std)

    @torch.no_grad()
    def decode(self, state: State) -> Tensor:
        """float (B, c, h, w) -> uint8 (B, H, W, C) on the CPU. InputError for another state, and for NaN in what it becomes."""
        if not isinstance(state, Tensor) or state.ndim != 4 or state.shape[1] != self.config.latent_channels:
            raise InputError(f"this codec decodes one tensor (B, {self.config.latent_channels}, h, w)")
        z = state.to(self.mean).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) * _each(self.std) + _each(self.mean)
        x = self._mapped(self.autoencoder.decode, z, self.tiling(1), Fraction(self.config.autoencoder.factor))
        if not bool(x.isfinite().all()):
            raise InputError("what the codec decodes is not finite: its weights are broken, or numbers overflowed")
        if tuple(state.shape[1:]) == self.shape():
            x = x[..., : self.config.height, : self.config.width]
        return self.pixels.decode(x)

    @torch.no_grad()
    def posterior(self, data: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(state | picture), each (B, c, h, w); 0 where a code is one point."""
        mean, std = (each.float() for each in self.autoencoder.posterior(self._padded(self.pixels.encode(data))))
        return (mean - _each(self.mean)) / _each(self.std), std / _each(self.std)

    def write(self, data: Tensor, out: Path, meta: Sequence[Mapping[str, Any]]) -> list[Path]:
        """One PNG a picture with its row of `meta` inside, and sheet.png, last in the list. See `show.write_pictures`."""
        return write_pictures(list(data), out, meta)

    def _padded(self, x: Tensor) -> Tensor:
        return pad_to_multiple(x.to(self.mean.device), self.config.autoencoder.factor)

    def _codes(self, x: Tensor) -> Tensor:
        f = self.config.autoencoder.factor
        return self._mapped(self.autoencoder.encode, self._padded(x), self.tiling(f), Fraction(1, f)).float()

    def _mapped(self, f: Callable[[Tensor], Tensor], x: Tensor, how: Tiling, scale: Fraction) -> Tensor:
        """f of all pictures, of which at most so many go through at once as one tile has room for: memory is bounded."""
        at_once = max(1, how.side**2 // (x.shape[-2] * x.shape[-1]))
        return torch.cat([tiled(f, some, how, scale) for some in x.split(at_once)])

    def tiling(self, grain: int) -> Tiling:
        """For an input of which `grain` pixels are the side of one code."""
        f, reach = self.config.autoencoder.factor, self.config.autoencoder.reach
        if reach is None:  # tiles are not what the whole would give: they overlap widely, for what is left changes slowly
            side = max(self.config.tile // f, 8)
            margin = fade = side // 8
        else:
            margin, fade = -(-reach // f), max(1, 16 // f)
            side = max(self.config.tile // f, 4 * (margin + fade))  # in codes: smaller tiles would be all margin
        return Tiling(side * grain, margin * grain, fade * grain, grain)


def _each(x: Tensor) -> Tensor:
    return x[:, None, None]

"""What an autoencoder's code passes through, so that it says little and another model can learn it.

    KL               q(z | x) = N(mean, std^2), z by reparametrisation; loss KL(q || N(0, 1)) in nats
                     (Kingma & Welling 2013, 1312.6114, appendix B; as a light touch on latents: Rombach et al. 2022, 2112.10752)
    codebook         z = the nearest of K vectors, the gradient passing straight through; loss |sg z - e|^2 + beta |z - sg e|^2
                     (van den Oord et al. 2017, 1711.00937, eq. 3). So that no vector dies, e_k = W r_k + b is a frozen normal
                     table under one learned map, and every step moves all (SimVQ, Zhu et al. 2024, 2411.02038); and what is looked
                     up is batch-normalised, so that it lies where the table does (Łańcucki et al. 2020, 2005.08520)
    finite scalars   every number rounded to a few levels: no loss, no table (Mentzer et al. 2023, 2309.15505; see `vq`)
A code is (B, C, h, w); the encoder ends in `inputs` channels, the decoder begins with `channels`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from unnoise.networks.layers import wide
from unnoise.networks.vq import FiniteScalars


@dataclass(frozen=True)
class Code:
    """z (B, C, h, w): what the decoder is given in training. loss (B,): a mean over the code's numbers. logged: (), for plots."""

    z: Tensor
    loss: Tensor
    logged: Mapping[str, Tensor] = field(default_factory=dict)


class Bottleneck(nn.Module, ABC):
    inputs: int
    """Channels that it is given."""
    channels: int
    """Channels of the code."""

    @abstractmethod
    def forward(self, h: Tensor, noise: Tensor) -> Code:
        """h (B, inputs, h, w) and standard normal noise (B, channels, h, w), for training."""

    @abstractmethod
    def latent(self, h: Tensor) -> Tensor:
        """(B, inputs, h, w) -> the code itself, without noise: (B, channels, h, w)."""

    def posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x), both (B, channels, h, w), float32 at least; 0 where a code is one point."""
        z = self.latent(h)
        return z, torch.zeros_like(z)

    @abstractmethod
    def snapped(self, z: Tensor) -> Tensor:
        """Any z -> the nearest that is a code: what a decoder should be given of what another model drew."""


class BottleneckConfig(ABC):
    """A frozen dataclass. channels: of the code; weight: of its loss."""

    weight: float

    @property
    @abstractmethod
    def latent_channels(self) -> int: ...

    @abstractmethod
    def build(self) -> Bottleneck: ...


@dataclass(frozen=True)
class KLConfig(BottleneckConfig):
    """weight: of the divergence, a mean over the code's numbers, beside a mean over pixels."""

    channels: int = 16
    weight: float = 2e-4

    @property
    def latent_channels(self) -> int:
        return self.channels

    def build(self) -> "KL":
        return KL(self)


class KL(Bottleneck):
    def __init__(self, config: KLConfig) -> None:
        super().__init__()
        self.inputs, self.channels = 2 * config.channels, config.channels

    def posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = h.to(wide(h)).chunk(2, 1)
        return mean, log_std.clamp(-10, 4).exp()

    def forward(self, h: Tensor, noise: Tensor) -> Code:
        mean, std = self.posterior(h)
        divergence = 0.5 * (mean.square() + std.square() - 1) - std.log()
        z = mean + std * noise
        return Code(
            z, divergence.flatten(1).mean(1), {"code_std": std.detach().mean(), "code_rms": z.detach().square().mean().sqrt()}
        )

    def latent(self, h: Tensor) -> Tensor:
        return self.posterior(h)[0]

    def snapped(self, z: Tensor) -> Tensor:
        return z


@dataclass(frozen=True)
class CodebookConfig(BottleneckConfig):
    """`codes` vectors of `channels` numbers. commitment: beta, of the pull of codes to their vectors."""

    channels: int = 8
    codes: int = 4096
    commitment: float = 0.25
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.codes < 2 or self.channels < 1:
            raise ValueError(f"a codebook of {self.codes} vectors of {self.channels} numbers: at least 2 of at least 1")

    @property
    def latent_channels(self) -> int:
        return self.channels

    def build(self) -> "Codebook":
        return Codebook(self)


class Codebook(Bottleneck):
    random: Tensor

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = self.channels = config.channels
        self.normalise = nn.BatchNorm2d(config.channels, affine=False)
        self.register_buffer("random", torch.randn(config.codes, config.channels))
        self.affine = nn.Linear(config.channels, config.channels)
        nn.init.eye_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def vectors(self) -> Tensor:
        """(codes, channels)"""
        return self.affine(self.random.to(self.affine.weight.dtype))

    def symbols(self, z: Tensor) -> Tensor:
        """The number of the nearest vector, (B, h, w) int64."""
        with torch.no_grad():
            e = self.vectors().float()
            # |z - e|^2 without its |z|^2, which is the same for all e; in blocks, for the table of distances may be large
            flat = z.float().movedim(1, -1).flatten(0, -2)
            block = max(1, (1 << 24) // len(e))
            nearest = [torch.addmm(e.square().sum(1) / 2, part, e.T, alpha=-1).argmin(1) for part in flat.split(block)]
            return torch.cat(nearest).view(z.shape[0], *z.shape[2:])

    def forward(self, h: Tensor, noise: Tensor) -> Code:
        h = self.normalise(h.to(wide(h)))
        symbols = self.symbols(h)
        e = self.vectors().to(h.dtype)[symbols].movedim(-1, 1)
        pull = (h.detach() - e).square() + self.config.commitment * (h - e.detach()).square()
        share = torch.bincount(symbols.flatten(), minlength=self.config.codes).float() / symbols.numel()
        perplexity = torch.special.entr(share).sum().exp()
        return Code(h + (e - h).detach(), pull.flatten(1).mean(1), {"perplexity": perplexity})

    def latent(self, h: Tensor) -> Tensor:
        return self.snapped(self.normalise(h.to(wide(h))))

    def snapped(self, z: Tensor) -> Tensor:
        return self.vectors()[self.symbols(z)].movedim(-1, 1).to(wide(z))


@dataclass(frozen=True)
class FiniteScalarsConfig(BottleneckConfig):
    """One number a place for each of `levels`, of that many values: prod(levels) symbols."""

    levels: tuple[int, ...] = (8, 8, 8, 5, 5, 5)
    weight: float = 0.0

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 2 or math.prod(self.levels) >= 2**62:
            raise ValueError(f"levels {self.levels}: at least two each, and their product below 2^62")

    @property
    def latent_channels(self) -> int:
        return len(self.levels)

    def build(self) -> "FiniteScalarsBottleneck":
        return FiniteScalarsBottleneck(self)


class FiniteScalarsBottleneck(Bottleneck):
    def __init__(self, config: FiniteScalarsConfig) -> None:
        super().__init__()
        self.inputs = self.channels = len(config.levels)
        self.scalars = FiniteScalars(config.levels)

    def forward(self, h: Tensor, noise: Tensor) -> Code:
        z = self.scalars(h.to(wide(h)))
        return Code(z, z.new_zeros(len(z)))

    def latent(self, h: Tensor) -> Tensor:
        return self.scalars(h.to(wide(h)))

    def symbols(self, z: Tensor) -> Tensor:
        """Of codes (B, C, h, w): (B, h, w) int64."""
        return self.scalars.symbols(z)

    def snapped(self, z: Tensor) -> Tensor:
        return self.scalars.values(self.scalars.symbols(self.scalars.nearest(z)))

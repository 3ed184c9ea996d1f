"""What a variational autoencoder has beside its decoder, which is a generator as in `gan`: encoders, and a prior that learns.

The prior is a normalising flow of affine couplings (RealNVP, Dinh et al. 2016, 1605.08803), told the class:

    u = z * exp(s) + b  on one half of z, (s, b) = network(other half, class);   log p(z) = log N(u; 0, I) + sum s
Flows as the prior of an autoencoder: Chen et al. 2016 (1611.02731), there autoregressive.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unnoise.networks.gan import PictureShape, ResidualMLP
from unnoise.networks.layers import zeroed
from unnoise.networks.resnet import Down, act, pyramid


@dataclass(frozen=True)
class PictureEncoderConfig:
    """A picture -> 2 * latent numbers: the mean of its code and the logarithm of the standard deviation."""

    shape: PictureShape
    width: int
    latent: int = 64
    vector_dim: int = 0
    blocks: int = 1

    def build(self) -> "PictureEncoder":
        return PictureEncoder(self)


class PictureEncoder(nn.Module):
    def __init__(self, config: PictureEncoderConfig) -> None:
        super().__init__()
        self.config = config
        at = pyramid(config.shape.height, config.shape.width)
        self.down = Down(config.shape.channels, at, config.width, config.blocks)
        features = self.down.channels[-1] * math.prod(at.sizes[-1])
        self.out = nn.Linear(features + config.vector_dim, 2 * config.latent)
        nn.init.normal_(self.out.weight, std=0.5 / math.sqrt(features))
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _code(act(self.down(x)).flatten(1), vector, self.out)


@dataclass(frozen=True)
class RowEncoderConfig:
    inputs: int
    width: int
    depth: int = 3
    latent: int = 16
    vector_dim: int = 0

    def build(self) -> "RowEncoder":
        return RowEncoder(self)


class RowEncoder(nn.Module):
    def __init__(self, config: RowEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = ResidualMLP(config.inputs, config.width, config.depth)
        self.out = nn.Linear(config.width + config.vector_dim, 2 * config.latent)

    def forward(self, x: Tensor, vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return _code(self.trunk(x), vector, self.out)


def _code(h: Tensor, vector: Tensor | None, out: nn.Linear) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation (B, latent) each; the latter kept within -6 ... 2."""
    mean, log_std = out(h if vector is None else torch.cat([h, vector], 1)).chunk(2, 1)
    return mean, log_std.clamp(-6, 2)


@dataclass(frozen=True)
class CouplingFlowConfig:
    dim: int
    width: int
    couplings: int = 6
    vector_dim: int = 0
    limit: float = 2.0
    """Largest |s| of one coupling."""

    def __post_init__(self) -> None:
        if self.dim < 2:
            raise ValueError(f"a coupling splits its input: {self.dim} dimension is too few")

    def build(self) -> "CouplingFlow":
        return CouplingFlow(self)


class CouplingFlow(nn.Module):
    """z (B, dim) <-> u (B, dim). At first the identity up to order."""

    def __init__(self, config: CouplingFlowConfig) -> None:
        super().__init__()
        self.config, self.kept = config, config.dim // 2
        moved = config.dim - self.kept
        self.trunks = nn.ModuleList(ResidualMLP(self.kept + config.vector_dim, config.width, 1) for _ in range(config.couplings))
        self.outs = nn.ModuleList(zeroed(nn.Linear(config.width, 2 * moved)) for _ in range(config.couplings))

    def _coupling(self, i: int, kept: Tensor, vector: Tensor | None) -> tuple[Tensor, Tensor]:
        s, b = self.outs[i](self.trunks[i](kept if vector is None else torch.cat([kept, vector], 1))).chunk(2, 1)
        return self.config.limit * torch.tanh(s / self.config.limit), b

    def forward(self, z: Tensor, vector: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """u, and log |du/dz| (B,)."""
        log_det = z.new_zeros(len(z))
        for i in range(self.config.couplings):
            kept, moved = z[:, : self.kept], z[:, self.kept :]
            s, b = self._coupling(i, kept, vector)
            z = torch.cat([kept, moved * s.exp() + b], 1).flip(1)  # what was kept is moved next
            log_det = log_det + s.sum(1)
        return z, log_det

    def inverse(self, u: Tensor, vector: Tensor | None = None) -> Tensor:
        for i in reversed(range(self.config.couplings)):
            u = u.flip(1)
            kept, moved = u[:, : self.kept], u[:, self.kept :]
            s, b = self._coupling(i, kept, vector)
            u = torch.cat([kept, (moved - b) * (-s).exp()], 1)
        return u

    def log_prob(self, z: Tensor, vector: Tensor | None = None) -> Tensor:
        """(B,)"""
        u, log_det = self(z, vector)
        return log_det - 0.5 * (u.square() + math.log(2 * math.pi)).sum(1)

"""A variational autoencoder with a learned prior and a learned noise: Kingma & Welling 2013 (1312.6114), brought up to date.

    loss = - E_q [ log p(x | z, y) + log p(z | y) - log q(z | x, y) ] / D,     z ~ q by reparametrisation, one draw

q is a diagonal Gaussian, p(z | y) a coupling flow trained along (1611.02731), p(x | z) a Gaussian whose standard deviation is
learned: one for pictures (the sigma-VAE, Rybkin et al. 2020, 2006.13202), one a column for tables, as in TVAE (1907.00503), whose
categories have a softmax. Samples are the decoder's mean for pictures; for tables numbers and categories are drawn.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.evaluation.families.family import Family, OneShot, Rows, Subject, parts, usual_training
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.networks.gan import ConditionalGeneratorConfig, RowGeneratorConfig
from unnoise.networks.vae import CouplingFlow, CouplingFlowConfig, PictureEncoderConfig, RowEncoderConfig
from unnoise.training.config import AdamWConfig, TrainConfig
from unnoise.training.data import Batch

_LOG_2PI = math.log(2 * math.pi)
_QUICK = 10.0  # the few numbers of the noise are learned this many times faster than weights


@dataclass(frozen=True)
class Variational(Family):
    lr: float = 1e-3
    latent: int = 64
    row_latent: int = 16
    """For tables."""
    couplings: int = 6
    vector_dim: int = 32

    @property
    def name(self) -> str:
        return "vae"

    @property
    def about(self) -> str:
        return "variational autoencoder with a coupling-flow prior told the class and a learned output noise (sigma-VAE)"

    def contender(self, subject: Subject, size: int) -> "VariationalTask":
        told, shape = subject.told(self.vector_dim), subject.picture
        latent = self.row_latent if shape is None else self.latent
        prior = CouplingFlowConfig(latent, size, self.couplings, told).build()
        if shape is not None:
            encoder: nn.Module = PictureEncoderConfig(shape, size, latent, told).build()
            decoder: nn.Module = ConditionalGeneratorConfig(shape, size, latent, told).build()
            return PictureVariational(subject, self, encoder, decoder, prior, 1)
        assert isinstance(subject.codec, TableCodecConfig)
        rows = Rows(subject.codec)
        encoder = RowEncoderConfig(rows.dim, size, latent=latent, vector_dim=told).build()
        decoder = RowGeneratorConfig(rows.dim, size, latent=latent, vector_dim=told).build()
        return RowVariational(subject, self, encoder, decoder, prior, max(1, rows.numeric))

    def training(self, steps: int, batch: int, seed: int, stage: int) -> TrainConfig:
        return usual_training(AdamWConfig(self.lr, (0.9, 0.99)), steps, batch, seed)

    def sources(self) -> tuple[Callable[..., Any], ...]:
        return Variational, VariationalTask, PictureVariational, RowVariational


class VariationalTask(OneShot):
    def __init__(
        self, subject: Subject, family: Variational, encoder: nn.Module, decoder: nn.Module, prior: CouplingFlow, noises: int
    ) -> None:
        super().__init__()
        self.codec, self.family, self.dim = subject.codec.build(), family.name, prior.config.dim
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.conditioner = subject.conditioner(family.vector_dim)
        self.noise = nn.Parameter(torch.full((noises,), math.log(0.5) / _QUICK))

    @property
    def log_sigma(self) -> Tensor:
        return (_QUICK * self.noise).clamp(-5, 2)

    def calls(self) -> int:
        return 1

    def sampled(self) -> Sequence[nn.Module]:
        return self.decoder, self.prior, self.conditioner

    @abstractmethod
    def seen(self, x: State) -> Tensor:
        """A state as the encoder takes it."""

    @abstractmethod
    def misfit(self, x: State, out: Tensor) -> Tensor:
        """-log p(x | z) in nats, (B,), from what the decoder says."""

    def forward(self, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        state, cond = parts(batch)
        told = self.conditioner(cond).get("vector")
        x = self.seen(state)
        mean, log_std = self.encoder(x, told)
        e = rng.normal("code", (self.dim,), device=x.device)
        z = mean + log_std.exp() * e
        log_q = -(0.5 * (e.square() + _LOG_2PI) + log_std).sum(1)
        divergence = log_q - self.prior.log_prob(z, told)
        misfit = self.misfit(state, self.decoder(z, told))
        dims = x[0].numel()
        per_row = (misfit + divergence) / dims
        return {
            "loss": per_row.mean(),
            "misfit": misfit.mean() / dims,
            "divergence": divergence.mean(),
            "sigma": self.log_sigma.exp().mean(),
        }

    def decoded(self, cond: Mapping[str, Tensor], rng: Streams) -> Tensor:
        device = self.noise.device
        told = self.conditioner(cond).get("vector")
        z = self.prior.inverse(rng.normal("code", (self.dim,), device=device), told)
        return self.decoder(z, told)


def _gaussian(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """-log N(x; mean, sigma) elementwise."""
    return 0.5 * ((x - mean) * (-log_sigma).exp()).square() + log_sigma + 0.5 * _LOG_2PI


class PictureVariational(VariationalTask):
    def seen(self, x: State) -> Tensor:
        assert isinstance(x, Tensor)
        return x

    def misfit(self, x: State, out: Tensor) -> Tensor:
        return _gaussian(self.seen(x), out, self.log_sigma).flatten(1).sum(1)

    def states(self, cond: Mapping[str, Tensor], rng: Streams) -> State:
        return self.decoded(cond, rng)


class RowVariational(VariationalTask):
    def __init__(
        self, subject: Subject, family: Variational, encoder: nn.Module, decoder: nn.Module, prior: CouplingFlow, noises: int
    ) -> None:
        super().__init__(subject, family, encoder, decoder, prior, noises)
        assert isinstance(subject.codec, TableCodecConfig)
        self.rows = Rows(subject.codec)

    def seen(self, x: State) -> Tensor:
        assert isinstance(x, Mapping)
        return self.rows.vector(x)

    def misfit(self, x: State, out: Tensor) -> Tensor:
        assert isinstance(x, Mapping)
        numbers, columns = self.rows.split(out)
        total = out.new_zeros(len(out))
        if self.rows.numeric:
            total = total + _gaussian(x["numeric"], numbers, self.log_sigma).sum(1)
        for j, logits in enumerate(columns):
            total = total + cross_entropy(logits, x["categorical"][:, j], reduction="none")
        return total

    def states(self, cond: Mapping[str, Tensor], rng: Streams) -> State:
        numbers, columns = self.rows.split(self.decoded(cond, rng))
        if self.rows.numeric:
            numbers = numbers + self.log_sigma.exp() * rng.normal("noise", (self.rows.numeric,), device=numbers.device)
        noise = self.rows.gumbel(rng, numbers.device).split(self.rows.sizes, 1) if self.rows.sizes else ()
        return self.rows.state(numbers, [(c + g).argmax(1) for c, g in zip(columns, noise)])

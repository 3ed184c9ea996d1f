"""Symbols and a prior over them, in two stages: the original DALL-E's plan (Ramesh et al. 2021, 2102.12092).

Stage 1 learns the alphabet, an autoencoder with finite scalar quantisation (2309.15505): |x - x'| + (x - x')^2, averaged.
Stage 2 freezes it and learns the sequence: a causal transformer told the class, by cross-entropy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.evaluation.families.family import Family, OneShot, Subject, parts, usual_training
from unnoise.networks.autoregressive import CausalTransformer, CausalTransformerConfig
from unnoise.networks.vq import QuantisedAutoencoder, QuantisedAutoencoderConfig
from unnoise.training.config import AdamWConfig, TrainConfig
from unnoise.training.data import Batch


@dataclass(frozen=True)
class Quantised(Family):
    lr: float = 2e-3
    prior_lr: float = 2e-3
    levels: tuple[int, ...] = (8, 6, 5)
    first: float = 0.25
    """The share of the compute that the autoencoder gets: it is learned long before its prior."""
    depth: int = 3
    dropout: float = 0.0
    vector_dim: int = 64
    share: float = 0.5
    """Of the usual batch: what the prior lacks is steps."""

    @property
    def name(self) -> str:
        return "vq"

    @property
    def about(self) -> str:
        return "finite-scalar-quantised autoencoder, then a causal transformer over its symbols (two stages, as DALL-E)"

    def batch(self, usual: int) -> int:
        return max(8, round(usual * self.share))

    def contender(self, subject: Subject, size: int) -> "QuantisedTask":
        shape = subject.picture
        if shape is None:
            raise InputError("vq makes symbols out of patches of pictures; a table's columns have no such grid: leave vq out")
        autoencoder = QuantisedAutoencoderConfig(shape, size, self.levels).build()
        rows, columns = autoencoder.map
        prior = CausalTransformerConfig(
            autoencoder.quantiser.size, rows * columns, 2 * size, self.depth, 2, subject.told(self.vector_dim), self.dropout
        )
        return QuantisedTask(subject, self, autoencoder, prior.build())

    def training(self, steps: int, batch: int, seed: int, stage: int) -> TrainConfig:
        return usual_training(AdamWConfig((self.lr, self.prior_lr)[stage], (0.9, 0.99)), steps, batch, seed)

    def sources(self) -> tuple[Callable[..., Any], ...]:
        return Quantised, QuantisedTask


class QuantisedTask(OneShot):
    def __init__(self, subject: Subject, family: Quantised, autoencoder: QuantisedAutoencoder, prior: CausalTransformer) -> None:
        super().__init__()
        self.codec, self.family, self.shares = subject.codec.build(), family.name, (family.first, 1 - family.first)
        self.autoencoder, self.prior = autoencoder, prior
        self.conditioner = subject.conditioner(family.vector_dim)
        self.stage = 0

    def enter(self, stage: int) -> None:
        self.stage = stage
        self.autoencoder.requires_grad_(stage == 0)
        self.prior.requires_grad_(stage == 1)
        self.conditioner.requires_grad_(stage == 1)

    def calls(self) -> int:
        """A symbol at a time, then the decoder."""
        return self.prior.config.length + 1

    def sampled(self) -> Sequence[nn.Module]:
        return self.autoencoder.widen, self.autoencoder.up, self.prior, self.conditioner

    def forward(self, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        x, cond = parts(batch)
        assert isinstance(x, Tensor)
        if self.stage == 0:
            error = self.autoencoder(x) - x
            return {"loss": (error.abs() + error.square()).mean(), "rms": error.square().mean().sqrt()}
        with torch.no_grad():
            symbols = self.autoencoder.encode(x)
        logits = self.prior(symbols, self.conditioner(cond).get("vector"))
        return {"loss": cross_entropy(logits.flatten(0, 1), symbols.flatten())}

    def states(self, cond: Mapping[str, Tensor], rng: Streams) -> State:
        uniforms = rng.uniform("symbols", (self.prior.config.length,), device=next(self.parameters()).device)
        return self.autoencoder.decode(self.prior.draw(uniforms, self.conditioner(cond).get("vector")))

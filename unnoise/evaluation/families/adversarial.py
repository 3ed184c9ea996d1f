"""Generative adversarial networks, as good as they are now: R3GAN (Huang et al. 2025, 2501.05441), with two kinds of generator.

The game is `core.adversarial.relativistic`, each fake against a real row of the same class; the critic is told the class too.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, softmax

from unnoise.core.adversarial import relativistic
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.core.state import State
from unnoise.evaluation.families.family import Family, OneShot, Rows, Subject, parts, usual_training
from unnoise.modalities.table.codec import TableCodecConfig
from unnoise.networks.gan import (
    ConditionalGeneratorConfig,
    PictureCriticConfig,
    PictureShape,
    RowCriticConfig,
    RowGeneratorConfig,
    StyleGeneratorConfig,
)
from unnoise.training.config import AdamWConfig, TrainConfig
from unnoise.training.data import Batch


@dataclass(frozen=True)
class Adversarial(Family):
    """style: the generator of StyleGAN2 instead of BigGAN's."""

    style: bool = False
    gamma: float = 1.0
    """Weight of both gradient penalties, for pictures in -1 ... 1."""
    row_gamma: float = 0.2
    """The same for rows of a table."""
    lr: float = 2e-3
    betas: tuple[float, float] = (0.0, 0.99)
    latent: int = 64
    vector_dim: int = 64
    share: float = 0.5
    """Of the usual batch: a step is dear, and many small ones serve a game of two better than few large ones."""

    @property
    def name(self) -> str:
        return "style-gan" if self.style else "gan"

    @property
    def about(self) -> str:
        kind = "style-modulated generator (StyleGAN2)" if self.style else "class-conditional generator (BigGAN)"
        return f"relativistic GAN with R1 and R2 penalties (R3GAN), {kind}, projection critic, averaged generator"

    def batch(self, usual: int) -> int:
        return max(8, round(usual * self.share))

    def contender(self, subject: Subject, size: int) -> "AdversarialTask":
        told = subject.told(self.vector_dim)
        shape = subject.picture
        if shape is not None:
            generator = self._generator(shape, size, told)
            return PictureAdversaries(subject, self, generator, PictureCriticConfig(shape, size, told).build(), self.gamma)
        assert isinstance(subject.codec, TableCodecConfig)
        if self.style:
            raise InputError(
                "style-gan scales the channels of convolutions; a table has none: compare gan, and leave style-gan out"
            )
        rows = Rows(subject.codec)
        made = RowGeneratorConfig(rows.dim, size, latent=self.latent, vector_dim=told).build()
        return RowAdversaries(subject, self, made, RowCriticConfig(rows.dim, size, vector_dim=told).build(), self.row_gamma)

    def _generator(self, shape: PictureShape, size: int, told: int) -> nn.Module:
        if self.style:
            return StyleGeneratorConfig(shape, size, self.latent, told).build()
        return ConditionalGeneratorConfig(shape, size, self.latent, told).build()

    def training(self, steps: int, batch: int, seed: int, stage: int) -> TrainConfig:
        # the penalties bound the gradients; clipping both players by one norm would tie them together
        return replace(usual_training(AdamWConfig(self.lr, self.betas), steps, batch, seed), clip=None)

    def sources(self) -> tuple[Callable[..., Any], ...]:
        return Adversarial, AdversarialTask, PictureAdversaries, RowAdversaries


class AdversarialTask(OneShot):
    def __init__(self, subject: Subject, family: Adversarial, generator: nn.Module, critic: nn.Module, gamma: float) -> None:
        super().__init__()
        self.codec, self.family, self.latent, self.gamma = subject.codec.build(), family.name, family.latent, gamma
        self.generator, self.critic = generator, critic
        # each player has its own idea of a class
        self.conditioner, self.critic_conditioner = (subject.conditioner(family.vector_dim) for _ in range(2))

    def calls(self) -> int:
        return 1

    def sampled(self) -> Sequence[nn.Module]:
        return self.generator, self.conditioner

    @abstractmethod
    def real(self, x: State) -> Tensor:
        """A state as the critic sees it, (B, ...)."""

    @abstractmethod
    def finished(self, x: Tensor, rng: Streams) -> Tensor:
        """The generator's output made to look like `real`'s, differentiably."""

    def made(self, cond: Mapping[str, Tensor], rng: Streams) -> Tensor:
        device = next(self.generator.parameters()).device
        latent = rng.normal("latent", (self.latent,), device=device)
        return self.finished(self.generator(latent, self.conditioner(cond).get("vector")), rng)

    def forward(self, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        state, cond = parts(batch)
        fake = self.made(cond, rng)
        told = self.critic_conditioner(cond).get("vector")
        both = None if told is None else torch.cat([told, told])
        game = relativistic(lambda x: self.critic(x, both), self.real(state), fake, self.gamma)
        return {
            "loss": game.critic + game.generator,
            "critic": game.critic,
            "generator": game.generator,
            "lead": game.lead,
            "slope": game.slope,
        }


class PictureAdversaries(AdversarialTask):
    def real(self, x: State) -> Tensor:
        assert isinstance(x, Tensor)
        return x

    def finished(self, x: Tensor, rng: Streams) -> Tensor:
        return x

    def states(self, cond: Mapping[str, Tensor], rng: Streams) -> State:
        return self.made(cond, rng)


class RowAdversaries(AdversarialTask):
    """Categories are drawn by Gumbel's trick, straight through: a unit vector forwards, the softmax's gradient backwards."""

    TEMPERATURE = 0.5

    def __init__(self, subject: Subject, family: Adversarial, generator: nn.Module, critic: nn.Module, gamma: float) -> None:
        super().__init__(subject, family, generator, critic, gamma)
        assert isinstance(subject.codec, TableCodecConfig)
        self.rows = Rows(subject.codec)

    def real(self, x: State) -> Tensor:
        assert isinstance(x, Mapping)
        return self.rows.vector(x)

    def finished(self, x: Tensor, rng: Streams) -> Tensor:
        numbers, columns = self.rows.split(x)
        noise = self.rows.gumbel(rng, x.device).split(self.rows.sizes, 1) if self.rows.sizes else ()
        parts = [numbers]
        for logits, g in zip(columns, noise):
            soft = softmax((logits + g) / self.TEMPERATURE, 1)
            parts.append(one_hot(soft.argmax(1), soft.shape[1]) + soft - soft.detach())
        return torch.cat(parts, 1)

    def states(self, cond: Mapping[str, Tensor], rng: Streams) -> State:
        numbers, columns = self.rows.split(self.made(cond, rng))
        return self.rows.state(numbers, [c.argmax(1) for c in columns])

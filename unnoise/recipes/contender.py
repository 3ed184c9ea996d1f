"""The default diffusion recipe as one family among others: scaled, told classes by number as the others are, and trained alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from unnoise.core.codec import Conditioner, UnconditionalConfig
from unnoise.core.errors import InputError
from unnoise.core.random import Streams
from unnoise.evaluation.families.family import Contender, Family, Subject
from unnoise.modalities.conditioning import LabelsConfig
from unnoise.model import DiffusionModel
from unnoise.networks.table import TableNetworkConfig
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.recipes.pictures import pictures
from unnoise.recipes.run import Run
from unnoise.recipes.tables import tables
from unnoise.recipes.task import DenoisingTask
from unnoise.training.config import TrainConfig
from unnoise.training.data import Batch

GRAIN = 16
"""Widths are multiples of this: rotary positions want it."""


@dataclass(frozen=True)
class Diffusion(Family):
    """run: what the default recipe makes of the data; its network's width becomes GRAIN times the size."""

    run: Run = field(repr=False)
    depth: int = 4
    drop = 0.1

    @property
    def name(self) -> str:
        return "diffusion"

    @property
    def about(self) -> str:
        how = self.run.model.sampling
        kind = "table network" if isinstance(self.run.model.network, TableNetworkConfig) else "transformer"
        return f"the default recipe's diffusion {kind}, {how.sampler} in {how.steps} steps at guidance {how.guidance:g}"

    def contender(self, subject: Subject, size: int) -> "DiffusionContender":
        """GRAIN size wide, told classes by number. InputError for a network that has no width to choose."""
        width, network = GRAIN * size, self.run.model.network
        told = subject.told(width)
        if isinstance(network, DiffusionTransformerConfig):
            patch = max(2, network.patch)  # at most 64 patches; strokes of 8 x 8 pixels need no more than 16
            network = replace(network, width=width, depth=self.depth, patch=patch, vector_dim=told, token_dim=0)
        elif isinstance(network, TableNetworkConfig):
            network = replace(network, width=width, vector_dim=told)
        else:
            raise InputError(f"a {type(network).__name__} cannot be scaled here; compare with the default recipe")
        conditioner = LabelsConfig(subject.classes, width) if subject.classes else UnconditionalConfig()
        config = replace(self.run.model, network=network, conditioner=conditioner, codec=subject.codec)
        if not subject.classes:
            config = replace(config, sampling=replace(config.sampling, guidance=1.0))
        return DiffusionContender(config.build(), self.run)

    def training(self, steps: int, batch: int, seed: int, stage: int) -> TrainConfig:
        return replace(
            self.run.train,
            steps=steps,
            batch=batch,
            seed=seed,
            warmup=min(self.run.train.warmup, steps // 10),
            bf16=False,
            snapshot_every=0,
            checkpoint_every=max(1, steps // 4),
        )

    def sources(self) -> tuple[Callable[..., Any], ...]:
        table = isinstance(self.run.model.network, TableNetworkConfig)
        return DenoisingTask, type(self.run.objective), tables if table else pictures

    def settings(self) -> tuple[object, ...]:
        model = self.run.model
        return model.process, model.preconditioner, model.sampling, self.run.objective, model.network


class DiffusionContender(Contender):
    def __init__(self, model: DiffusionModel, run: Run) -> None:
        super().__init__()
        self.model, self.inner = model, DenoisingTask(model, run.objective)

    def forward(self, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        return self.inner(batch, rng)

    def after_step(self) -> None:
        self.inner.after_step()

    def told(self) -> Conditioner:
        return self.inner.conditioner

    def calls(self) -> int:
        """Guidance calls the network twice a step."""
        how = self.model.config.sampling
        return how.steps * (2 if how.guidance != 1 else 1)

    def sampled(self) -> Sequence[nn.Module]:
        return self.inner.denoiser, self.inner.conditioner

    @torch.no_grad()
    def sample(self, prompts: Sequence[str | None], seeds: Sequence[int], guidance: float | None, calls: int | None) -> Any:
        scale = 1.0 if calls is not None and guidance is None else guidance
        told: Any = list(prompts)
        return self.model.sample(told, sample_seeds=seeds, guidance=scale, steps=calls, batch=256, captions=True).data

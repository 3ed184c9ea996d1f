"""The task of a diffusion model: its denoiser and conditioner, trained with one objective."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from unnoise.core.objectives import Objective
from unnoise.core.random import Streams
from unnoise.core.state import Batch, Cond
from unnoise.model import DiffusionModel
from unnoise.networks.mp_unet import renormalise_weights
from unnoise.training.task import Task


@runtime_checkable
class Checkpointed(Protocol):
    """A network that can drop what its blocks compute, and compute it again for the backward pass."""

    checkpointing: bool


@runtime_checkable
class Learning(Protocol):
    """A conditioner that learns something of its own beside what the denoiser teaches it."""

    def learn(self, prepared: Cond, told: Cond, rng: Streams) -> Tensor:
        """Its own loss on each row, (B,): of what `prepare` gave and of what `forward` made of it."""


class DenoisingTask(Task):
    """Wraps a model; the loop sees only parameters and a loss."""

    def __init__(self, model: DiffusionModel, objective: Objective, checkpointing: bool = False) -> None:
        super().__init__()
        for module in model.denoiser.modules():
            if isinstance(module, Checkpointed):
                module.checkpointing = checkpointing
        self.denoiser, self.conditioner = model.denoiser, model.conditioner
        self.objective = objective  # registered as a submodule if it learns something itself (uncertainty)

    def forward(self, batch: Mapping[str, Any], rng: Streams) -> dict[str, Tensor]:
        told = self.conditioner(batch["cond"])
        out = self.objective(self.denoiser, Batch(batch["x"], told), rng)
        if isinstance(self.conditioner, Learning):
            own = self.conditioner.learn(batch["cond"], told, rng.scoped("conditioner")).mean()
            out = {**out, "loss": out["loss"] + own, "conditioner": own.detach()}
        return out

    def after_step(self) -> None:
        renormalise_weights(self.denoiser)

    def weights_for(self, model: DiffusionModel, weights: Mapping[str, Tensor] | None = None) -> None:
        """Copy this task's weights, or others under its names (such as averages of the trained ones), into a like model."""
        state = self.state_dict() if weights is None else weights
        own = nn.ModuleDict({"denoiser": model.denoiser, "conditioner": model.conditioner})
        mine = {k: v for k, v in state.items() if not k.startswith("objective.")}
        own.load_state_dict({**own.state_dict(), **mine})

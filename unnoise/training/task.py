"""A task: everything that is trained, and how one batch becomes a loss. All that the loop knows of what it trains."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from unnoise.core.random import Streams
from unnoise.training.data import Batch


class Task(nn.Module, ABC):
    """Parameters to be trained and their loss."""

    @abstractmethod
    def forward(self, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        """A batch of B rows, on this task's device, and one random stream a row -> what is minimised and what is plotted.

        "loss": (), the mean over these B rows, so that the loss of a large batch is the mean of the losses of its parts.
        Optional: "time" (B,) in [0, 1] and "per_sample" (B,), from which the loss per noise level is drawn; any other entry
        of shape () is logged under its name. All random numbers come from `rng`: then training does not depend on how
        rows are spread over micro-batches and processes. (Dropout may use torch's own generator, which is seeded every step.)
        """

    def after_step(self) -> None:
        """Called after every optimiser step: for weights that are kept on a surface. Must act on each weight alone, in place."""

"""The guard: when has training diverged? A loss or gradient that is not finite, or a loss that has exploded.

Exploded: for `patience` steps in a row, loss - m > factor (|m| + d), with m the median of the last `window` losses and d
their median distance from m, which is what counts where losses lie around zero. Medians hardly move while fewer than half
of the window are bad, and single bad batches are let pass.
"""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

from unnoise.training.config import GuardConfig


class Guard:
    """Sees every loss once, in order. Its memory (`losses`, `streak`) belongs into checkpoints."""

    def __init__(self, config: GuardConfig, losses: Iterable[float] = (), streak: int = 0) -> None:
        self._config = config
        self.losses = deque(losses, maxlen=config.window)
        self.streak = streak

    def complaint(self, loss: float, gradient_norm: float) -> str | None:
        """What is wrong at this step, or None."""
        if not math.isfinite(loss):
            return f"the loss was {loss}"
        if not math.isfinite(gradient_norm):
            return f"the gradient's norm was {gradient_norm}"
        if len(self.losses) * 4 < self._config.window:
            self.losses.append(loss)
            return None
        usual = median(self.losses)
        spread = median(abs(x - usual) for x in self.losses)
        self.streak = self.streak + 1 if loss - usual > self._config.factor * (abs(usual) + spread) else 0
        self.losses.append(loss)
        if self.streak >= self._config.patience:
            beyond = f"more than {self._config.factor:g} times above its usual {usual:.4g}"
            return f"the loss had been {beyond} for {self.streak} steps, and was {loss:.4g}"
        return None

"""Objectives: what training makes small. Each takes (denoiser, batch, streams) and gives "loss" and what is worth plotting.

    Denoising            E over t, x_0 and the noise of  loss(what the denoiser says about x_t, x_0)
    DenoisingTwice       the same for the middle head too, a share of its loss added     (Zhou et al. 2025, 2512.24176)
    SlicedScoreMatching  the same minimum without x_0: Song et al. 2019 (1905.07088, eq. 8), for the score s of p(x_t),
                         E over directions v of  v^T (ds/dx) v + |s|^2 / 2, weighted by sigma^2
    LearnedUncertainty   any of them, with the scale of its per-sample losses learned along
The variational bound, in bits per dimension, is in `bound`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unnoise.core.coupling import Coupling, Independent
from unnoise.core.denoisers import Denoiser, two_headed
from unnoise.core.losses import Loss
from unnoise.core.processes import Gaussian, Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import Batch, State, expand, leaf
from unnoise.core.times import Times, UniformTimes

Objective = Callable[[Denoiser, Batch, Streams], dict[str, Tensor]]
"""With one stream a sample. Gives "loss" (scalar) and, for plots, "time" (B,) and "per_sample" (B,), the loss of each sample."""


class PerSample(ABC):
    """An objective that is a mean over the samples of the batch; a frozen dataclass."""

    @abstractmethod
    def losses(self, denoiser: Denoiser, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor]:
        """Each sample's loss (B,) float32 and the time at which it was measured (B,)."""

    def __call__(self, denoiser: Denoiser, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        losses, t = self.losses(denoiser, batch, rng)
        return {"loss": losses.mean(), "time": t, "per_sample": losses.detach()}


@dataclass(frozen=True)
class Denoising(PerSample):
    """Tell the data from x_t."""

    loss: Loss
    times: Times = UniformTimes()
    coupling: Coupling = Independent()

    def losses(self, denoiser: Denoiser, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor]:
        x_t, t = self.noisy(denoiser.process, batch, rng)
        return self.loss(denoiser.process, denoiser(x_t, t, batch.cond), batch.x, x_t, t), t

    def noisy(self, process: Process, batch: Batch, rng: Streams) -> tuple[State, Tensor]:
        """x_t and its times t (B,)."""
        t = on_device(self.times.draw(rng, process), batch.x)
        return self.coupling.corrupt(process, batch.x, t, rng), t


@dataclass(frozen=True)
class DenoisingTwice(PerSample):
    """`denoising` of what the network says last, plus `share` times that of what its middle head says of the same x_t.

    The middle head learns to be internal guidance's weaker model; the blocks before it learn faster. Raises InputError where the
    denoiser has no such head.
    """

    denoising: Denoising
    share: float = 0.5

    def losses(self, denoiser: Denoiser, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor]:
        process, loss = denoiser.process, self.denoising.loss
        x_t, t = self.denoising.noisy(process, batch, rng)
        last, middle = (loss(process, said, batch.x, x_t, t) for said in two_headed(denoiser).both(x_t, t, batch.cond))
        return last + self.share * middle, t


@dataclass(frozen=True)
class SlicedScoreMatching(PerSample):
    """Learn the score of a Gaussian process's noisy data from x_t alone; `slices` random directions a sample.

    Each sample's loss is sigma^2 (v^T (ds/dx) v + |s|^2 / 2) averaged over dimensions. Its mean is half the error of the noise
    (`SquaredError(Simple())`) less 1/2, whatever the denoiser; it may be negative. Needs second derivatives of the network.
    """

    times: Times = UniformTimes()
    slices: int = 1

    def losses(self, denoiser: Denoiser, batch: Batch, rng: Streams) -> tuple[Tensor, Tensor]:
        process = gaussian(denoiser.process, "SlicedScoreMatching")
        t = on_device(self.times.draw(rng, process), batch.x)
        x_t = tensor(process.corrupt(batch.x, t, rng).x_t).detach().requires_grad_(True)
        alpha, sigma = (expand(f(t), x_t) for f in (process.schedule.alpha, process.schedule.sigma))
        signs = (2.0 * rng.integers("slices", 2, (self.slices, *x_t.shape[1:]), device=x_t.device) - 1).to(x_t.dtype)
        with torch.enable_grad():
            score = (alpha * mean(denoiser(x_t, t, batch.cond)) - x_t) / sigma**2  # Tweedie
            losses = (0.5 * (sigma * score) ** 2).flatten(1).mean(1)
            for v in signs.unbind(1):
                (turned,) = torch.autograd.grad((score * v).sum(), x_t, create_graph=True)
                losses = losses + (sigma**2 * turned * v).flatten(1).mean(1) / self.slices
        return losses, t


class LearnedUncertainty(nn.Module):
    """loss / e^u + u, with u(noise level) learned along: every noise level comes to have the same share of the gradient.

    Karras et al. 2024 (EDM2, 2312.02696, section 2.3 and appendix B.3): u is linear in random Fourier features. The weights belong
    to training, not to the model. "per_sample" stays the inner objective's.
    """

    def __init__(self, objective: PerSample, features: int = 128) -> None:
        super().__init__()
        self.objective = objective
        self.frequency: Tensor
        self.phase: Tensor
        self.register_buffer("frequency", torch.randn(features))
        self.register_buffer("phase", torch.rand(features))
        self.linear = nn.Linear(features, 1, bias=False)
        nn.init.zeros_(self.linear.weight)  # starts as the plain loss

    def uncertainty(self, process: Process, t: Tensor) -> Tensor:
        """u at times t (B,): (B,) float32."""
        level = (process.schedule.log_snr(t) / 4).clamp(-5, 5) if isinstance(process, Gaussian) else 4 * t - 2
        angle = 2 * torch.pi * (level.float()[:, None] * self.frequency + self.phase)
        return self.linear(2**0.5 * angle.cos())[:, 0]

    def forward(self, denoiser: Denoiser, batch: Batch, rng: Streams) -> dict[str, Tensor]:
        losses, t = self.objective.losses(denoiser, batch, rng)
        u = self.uncertainty(denoiser.process, t)
        return {"loss": (losses * (-u).exp() + u).mean(), "time": t, "per_sample": losses.detach()}


def on_device(t: Tensor, x: State) -> Tensor:
    """Times on the device of x, in float64."""
    return t.to(device=leaf(x).device, dtype=torch.float64)

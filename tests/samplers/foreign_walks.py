"""One network walked by a scheduler of diffusers and by our sampler, from the same noise, for comparison step by step."""

import importlib
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.checkpoints.foreign.scheduler import Scheduled, read_scheduler
from unnoise.core.denoisers import NetworkDenoiser
from unnoise.core.oracles import ExactMixture
from unnoise.core.preconditioning import AtLogSigma
from unnoise.core.processes import Gaussian
from unnoise.core.schedules import DiscreteVP, Schedule

ROWS = 8
STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCALED = DiscreteVP(1000, 0.00085, 0.012, 2.0)
IN_RATIOS = ("Euler", "Heun", "LMS", "KDPM2", "DPMSolverSDE")
"""Their schedulers after k-diffusion walk in x / alpha."""


def noises(count: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    return [torch.randn(ROWS, 2, generator=g) for _ in range(count)]


def of_class(kind: str) -> Any:
    """A scheduler class of theirs. The one that would draw its noise from torchsde is given its noise here."""
    if kind == "DPMSolverSDEScheduler":
        sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))
        return importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde").DPMSolverSDEScheduler
    return getattr(pytest.importorskip("diffusers"), kind)


class Posterior(nn.Module):
    """An exact network: what one trained to the end on four Gaussians in the plane says, told timestep / 1000."""

    def __init__(self, schedule: Schedule, predicts: str = "epsilon", first: float = 0.001) -> None:
        super().__init__()
        means = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        self.mixture = ExactMixture(Gaussian(schedule), [0.1, 0.2, 0.3, 0.4], means, [0.1, 0.2, 0.15, 0.3])
        self.schedule, self.predicts, self.first = schedule, predicts, first

    def forward(self, x: Tensor, level: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        t = level.double() + self.first
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        x0 = self.mixture(x.double(), t).x0
        eps = (x.double() - alpha * x0) / sigma
        said = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "sample": x0, "flow_prediction": eps - x0}
        return said[self.predicts].float()


class ByLevel(nn.Module):
    """The same of one trained by EDM, told ln(sigma) / 4000 and x brought to unit variance."""

    def __init__(self, schedule: Schedule, data_std: float, negated: bool) -> None:
        super().__init__()
        self.mixture = Posterior(schedule).mixture
        self.schedule, self.data_std, self.negated = schedule, data_std, negated

    def forward(self, x: Tensor, level: Tensor, cond: Mapping[str, Tensor] | None = None) -> Tensor:
        sigma, d = (4000 * level.double()).exp()[:, None], self.data_std
        x, t = x.double() * (sigma**2 + d**2).sqrt(), (sigma / self.schedule.sigma(torch.ones(()))).clamp(max=1)[:, 0]
        f = (self.mixture(x, t).x0 - d**2 / (sigma**2 + d**2) * x) * (sigma**2 + d**2).sqrt() / (sigma * d)
        return (-f if self.negated else f).float()


@dataclass
class Given:
    """In place of `Streams`: noise that is handed out by step, and by a second name for a second draw in it."""

    first: list[Tensor]
    second: list[Tensor] = field(default_factory=list)
    step: int = 0

    def normal(self, name: str, shape: Any, *, device: Any = None, dtype: Any = None) -> Tensor:
        return (self.second if name.endswith("rest") else self.first)[self.step]


@dataclass
class Case:
    """kind: their class; settings: its arguments. predicts: what the network says. calls: their calls a step, but for the last."""

    kind: str
    settings: Mapping[str, Any]
    calls: int = 1
    pipeline: str = ""

    @property
    def flow(self) -> bool:
        return self.kind.startswith("Flow") or bool(self.settings.get("use_flow_sigmas"))

    def __str__(self) -> str:
        said = [f"{k}={v}" for k, v in self.settings.items() if k not in (*STABLE_DIFFUSION, "prediction_type")]
        return " ".join([self.kind.removesuffix("Scheduler"), *said])

    def build(self) -> tuple[Any, Scheduled, Posterior | ByLevel]:
        theirs = of_class(self.kind)(**self.settings)
        ours = read_scheduler({**theirs.config, "_class_name": self.kind}, self.pipeline)
        if isinstance(ours.preconditioner, AtLogSigma):
            told = ours.preconditioner
            return theirs, ours, ByLevel(ours.process.schedule, told.data_std, told.negated)
        predicts = "flow_prediction" if self.flow else str(self.settings.get("prediction_type", "epsilon"))
        return theirs, ours, Posterior(ours.process.schedule, predicts, 0.0 if self.flow else 0.001)

    def theirs(self, theirs: Any, network: nn.Module, steps: int, patch: pytest.MonkeyPatch) -> list[Tensor]:
        """x at the end of every step, as we scale it, and their last."""
        start, *draws = noises(1 + 2 * steps)
        calls = 0

        def drawn(*args: Any, **kwargs: Any) -> Tensor:
            return draws[calls // self.calls]

        def brownian(high: Tensor, low: Tensor) -> Tensor:
            """One path of W over a step: its first half alone at the trial, both halves at the step itself."""
            i = calls // 2
            if calls % 2 == 0 or low == 0:
                return draws[i]
            share = (high - (high * low).sqrt()) / (high - low)
            return share.sqrt() * draws[i] + (1 - share).sqrt() * draws[steps + i]

        theirs.set_timesteps(steps)
        module = sys.modules[type(theirs).__module__]
        if hasattr(module, "randn_tensor"):
            patch.setattr(module, "randn_tensor", drawn)
        theirs.noise_sampler = brownian
        x = start * float(getattr(theirs, "init_noise_sigma", 1.0))
        out = []
        for timestep in theirs.timesteps:
            seen = theirs.scale_model_input(x, timestep) if hasattr(theirs, "scale_model_input") else x
            said = network(seen, torch.full((ROWS,), float(timestep) / 1000))
            x = theirs.step(said, timestep, x, return_dict=False)[0]
            calls += 1
            ratio = theirs.sigmas[theirs.step_index] if self.kind.startswith(IN_RATIOS) else 0.0
            out.append(x / (ratio**2 + 1) ** 0.5)
        if self.kind.startswith("PNDM"):
            return out[1:]  # its first step takes two calls
        return [*out[self.calls - 1 : -1 : self.calls], out[-1]]

    def ours(self, ours: Scheduled, network: nn.Module, steps: int) -> tuple[Tensor, list[Tensor]]:
        """The times walked, and x at the end of every step."""
        start, *draws = noises(1 + 2 * steps)
        assert isinstance(ours.process, Gaussian)
        sampler, grid = ours.sampling.choice()
        times = grid.times(steps, ours.process)
        denoiser = NetworkDenoiser(network, ours.process, ours.preconditioner)
        one = torch.ones((), dtype=torch.float64)
        last = ours.process.schedule
        std = (last.sigma(one) ** 2 + (ours.process.signal_std * last.alpha(one)) ** 2).sqrt()
        x, out = start * float(std), []
        state = sampler.start(x)
        for i in range(len(times) - 1):
            t, s = times[i].expand(ROWS), times[i + 1].expand(ROWS)
            x, state = sampler.step(
                lambda x, t: denoiser(x, t, {}), ours.process, x, t, s, state, Given(draws[:steps], draws[steps:], i)
            )
            out.append(x)
        return times, out

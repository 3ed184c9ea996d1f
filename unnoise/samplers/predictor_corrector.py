"""Predictor-corrector: Song et al. 2021 (2011.13456), algorithms 2-5: any sampler, with Langevin steps at each new time.

    x <- x + e score(x, s) + sqrt(2 e) z,   e = 2 (snr |z| / |score|)^2
Song et al. average the norms over the batch; a sample of ours may not depend on its batch, and a sample's own norms would bend
the law that the step is to keep. So they stand for their expectations where noise rules, sqrt(D) and sqrt(D) / sigma:
    e = 2 snr^2 sigma_s^2,   that is   d <- (1 - 2 snr^2) d + 2 snr sigma_s z   for d = x - alpha_s x0.
It is stable, as no marginal's log-density curves by more than 1 / sigma^2 downwards, and inflates the variance of pure noise by
1 / (1 - snr^2): 2.6 % at the default. There is no corrector at t = 0.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.denoisers import Denoise
from unnoise.core.errors import InputError
from unnoise.core.processes import Process, gaussian
from unnoise.core.processes.gaussian import mean, tensor
from unnoise.core.random import Streams
from unnoise.core.state import State, expand
from unnoise.samplers.loop import S, Sampler


@dataclass(frozen=True)
class PredictorCorrector(Sampler[S]):
    """`corrections` Langevin steps, each one more call, after every step of `predictor` but the last. snr in (0, 0.7]."""

    predictor: Sampler[S]
    snr: float = 0.16
    corrections: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.snr <= 0.7 or self.corrections < 1:
            raise InputError(
                f"predictor-corrector: snr {self.snr} must lie in (0, 0.7] and corrections {self.corrections} be at least 1"
            )

    def start(self, x: State) -> S:
        return self.predictor.start(x)

    def step(self, denoise: Denoise, process: Process, x: State, t: Tensor, s: Tensor, state: S, rng: Streams) -> tuple[State, S]:
        process = gaussian(process, "predictor-corrector")
        x, state = self.predictor.step(denoise, process, x, t, s, state, rng)
        if not bool((s > 0).any()):
            return x, state
        x = tensor(x)
        acts = expand(s > 0, x).bool()
        alpha, sigma = process.schedule.alpha(s), process.schedule.sigma(s)
        for i in range(self.corrections):
            d = x - expand(alpha, x) * mean(denoise(x, torch.where(s > 0, s, t)))
            z = rng.normal(f"corrector/{i}", x.shape[1:], device=x.device).to(x.dtype)
            x = torch.where(acts, x - 2 * self.snr**2 * d + expand(2 * self.snr * sigma, x) * z, x)
        return x, state

    def calls(self, steps: int) -> int:
        return self.predictor.calls(steps) + self.corrections * (steps - 1)

"""Forward again: from x_t to a noisier x_u. What churn and restart need."""

from torch import Tensor

from unnoise.core.processes import Gaussian
from unnoise.core.schedules import Schedule
from unnoise.core.state import expand


def noise_ratio(schedule: Schedule, t: Tensor) -> Tensor:
    """sigma / alpha, EDM's sigma, (B,): 0 at t = 0, inf where alpha = 0."""
    return schedule.sigma(t) / schedule.alpha(t)


def time_of_ratio(schedule: Schedule, ratio: Tensor) -> Tensor:
    """The time with sigma / alpha = ratio; 1 beyond the schedule's range, 0 at ratio 0."""
    return schedule.time(-2 * ratio.log())


def renoise(process: Gaussian, x: Tensor, t: Tensor, u: Tensor, z: Tensor) -> Tensor:
    """x_u ~ q(x_u | x_t) for u >= t, with z standard normal: k x_t + sqrt(sigma_u^2 - (k sigma_t)^2) z, k = alpha_u / alpha_t.

    Where u <= t nothing is added and x is only rescaled; alpha(t) must not be 0.
    """
    schedule = process.schedule
    scale = schedule.alpha(u) / schedule.alpha(t)
    added = (schedule.sigma(u) ** 2 - (scale * schedule.sigma(t)) ** 2).clamp(min=0).sqrt()
    return expand(scale, x) * x + expand(added, x) * z.to(x.dtype)

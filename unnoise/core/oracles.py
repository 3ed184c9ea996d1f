"""Exact denoisers: no network, but the posterior of x_0 given x_t in closed form. The tests' oracles; good to learn from.

Gaussian process, x_t = a x_0 + s e:
    data N(m, C)            E[x_0 | x_t] = m + a C (a^2 C + s^2 I)^-1 (x_t - a m)
    data sum_k w_k N_k      the same for each component, weighted with w_k N(x_t; a m_k, a^2 C_k + s^2 I)
    data on N points        softmax of log w_i - |x_t - a p_i|^2 / (2 s^2)   (Karras et al. 2022, "ideal denoiser", appendix B.3)
Categorical process: p(sequence i | x_t) ~ w_i prod_d q(x_t,d | i_d), summed over the sequences that agree at a position.
Torus: data a mixture of wrapped normals, so x_t is too, with variance tau^2 = std^2 + s^2; its score is a sum over turns.
All in float64 inside, with log-sum-exp; finite at t = 0 and at alpha = 0.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from unnoise.core.denoisers import Denoiser
from unnoise.core.errors import InputError
from unnoise.core.predictions import Logits, Mean, Tangent
from unnoise.core.processes import Gaussian, Masked, Torus, UniformCategorical
from unnoise.core.processes.categorical import inverse_cdf
from unnoise.core.processes.gaussian import tensor
from unnoise.core.processes.torus import wrap
from unnoise.core.random import Streams
from unnoise.core.state import Cond, State

_LEAST = 1e-300  # stands for a variance of 0: log-densities become 0 or hugely negative, never NaN


def _log_weights(weights: Sequence[float] | Tensor | None, n: int) -> Tensor:
    w = torch.ones(n, dtype=torch.float64) if weights is None else torch.as_tensor(weights, dtype=torch.float64)
    if w.shape != (n,) or not bool((w >= 0).all()) or not float(w.sum()) > 0:
        raise InputError(f"weights must be {n} numbers of at least 0, not all 0; these have shape {tuple(w.shape)}")
    return (w / w.sum()).log()


def _pick(log_weights: Tensor, rng: Streams) -> Tensor:
    """Component numbers (B,) drawn with these weights."""
    u = rng.uniform("component", dtype=torch.float64)
    return inverse_cdf(log_weights.exp().expand(len(u), -1), u)


class ExactMixture(Denoiser):
    """Data from sum_k weights_k N(means_k, covariances_k).

    means (K, *shape). covariances: variances (K,) of isotropic components, or matrices (K, D, D) over the flattened sample.
    """

    process: Gaussian
    log_weights: Tensor
    means: Tensor
    variance: Tensor
    axes: Tensor

    def __init__(
        self, process: Gaussian, weights: Sequence[float] | Tensor, means: Tensor, covariances: Sequence[float] | Tensor
    ) -> None:
        super().__init__()
        self.process = process
        self.shape = tuple(means.shape[1:])
        mu = means.double().flatten(1)
        k, d = mu.shape
        c = torch.as_tensor(covariances, dtype=torch.float64)
        if c.shape == (k,):
            variance, axes = c[:, None].expand(k, d), torch.eye(d, dtype=torch.float64).expand(k, d, d)
        elif c.shape == (k, d, d):
            variance, axes = torch.linalg.eigh(c)
        else:
            raise InputError(f"covariances have shape {tuple(c.shape)}; they must be ({k},) variances or ({k}, {d}, {d}) matrices")
        if bool((variance < -1e-12 * variance.abs().amax()).any()):
            raise InputError("a covariance is not positive semi-definite")
        self.isotropic = c.ndim == 1
        self.register_buffer("log_weights", _log_weights(weights, k))
        self.register_buffer("means", mu)  # (K, D)
        self.register_buffer("variance", variance.clamp(min=0).clone())  # (K, D) along the columns of
        self.register_buffer("axes", axes[:0] if self.isotropic else axes)  # (K, D, D)

    def _into(self, x: Tensor) -> Tensor:
        """(B, K, D) along each component's axes."""
        return x if self.isotropic else torch.einsum("bkd,kde->bke", x, self.axes)

    def _out(self, x: Tensor) -> Tensor:
        return x if self.isotropic else torch.einsum("bke,kde->bkd", x, self.axes)

    def _joint(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k N(x; ...) (B, K), the deviation x - alpha m_k along the axes, and its variance, both (B, K, D)."""
        a = alpha.to(x)[:, None, None]
        deviation = self._into(x[:, None] - a * self.means)
        variance = (a**2 * self.variance + sigma.to(x)[:, None, None] ** 2).clamp(min=_LEAST)
        log_n = -0.5 * (deviation**2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
        return self.log_weights + log_n, deviation, variance

    def forward(self, x_t: State, t: Tensor, cond: Cond | None = None) -> Mean:
        x = tensor(x_t)
        alpha, sigma = self.process.schedule.alpha(t), self.process.schedule.sigma(t)
        joint, deviation, variance = self._joint(x.double().flatten(1), alpha, sigma)
        gain = alpha.to(joint)[:, None, None] * self.variance / variance
        x0 = self.means + self._out(gain * deviation)  # (B, K, D)
        return Mean((joint.softmax(-1)[..., None] * x0).sum(1).to(x.dtype).reshape(x.shape))

    def sample(self, rng: Streams) -> Tensor:
        """Exact draws of the data, (B, *shape) float32."""
        k = _pick(self.log_weights.cpu(), rng).to(self.means.device)
        z = rng.normal("oracle", (self.means.shape[1],), device=self.means.device).double() * self.variance[k].sqrt()
        z = z if self.isotropic else torch.einsum("be,bde->bd", z, self.axes[k])
        return (self.means[k] + z).float().reshape(-1, *self.shape)

    def log_prob(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """log density in nats, (B,) float64: of the data, or of x_t at times t (B,)."""
        t = torch.zeros(len(x), dtype=torch.float64, device=x.device) if t is None else t
        schedule = self.process.schedule
        return self._joint(x.double().flatten(1), schedule.alpha(t), schedule.sigma(t))[0].logsumexp(-1)


class ExactGaussian(Denoiser):
    """Data from N(mean, covariance). mean (*shape); covariance: a variance, or a matrix (D, D) over the flattened sample."""

    process: Gaussian

    def __init__(self, process: Gaussian, mean: Tensor, covariance: float | Tensor) -> None:
        super().__init__()
        self.process = process
        self.mixture = ExactMixture(process, [1.0], mean[None], torch.as_tensor(covariance, dtype=torch.float64)[None])

    def forward(self, x_t: State, t: Tensor, cond: Cond | None = None) -> Mean:
        return self.mixture(x_t, t, cond)

    def sample(self, rng: Streams) -> Tensor:
        """Exact draws of the data, (B, *shape) float32."""
        return self.mixture.sample(rng)

    def log_prob(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """log density in nats, (B,) float64: of the data, or of x_t at times t (B,)."""
        return self.mixture.log_prob(x, t)


class ExactFinite(Denoiser):
    """Data from a finite set. points (N, *shape), weights (N,), by default equal."""

    process: Gaussian
    points: Tensor
    log_weights: Tensor

    def __init__(self, process: Gaussian, points: Tensor, weights: Sequence[float] | Tensor | None = None) -> None:
        super().__init__()
        self.process = process
        self.shape = tuple(points.shape[1:])
        self.register_buffer("points", points.double().flatten(1))
        self.register_buffer("log_weights", _log_weights(weights, len(points)))

    def posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(point | x_t): (B, N) float64."""
        x = x_t.double().flatten(1)
        schedule = self.process.schedule
        a, s = schedule.alpha(t).to(x)[:, None], schedule.sigma(t).to(x)[:, None]
        # |x - a p|^2 without |x|^2, which all points share; less its least value, so that dividing by s^2 = 0 leaves the nearest
        far = a**2 * (self.points**2).sum(-1) - 2 * a * (x @ self.points.T)
        far = far - far.amin(-1, keepdim=True)
        return (self.log_weights - far / (2 * s**2).clamp(min=_LEAST)).softmax(-1)

    def forward(self, x_t: State, t: Tensor, cond: Cond | None = None) -> Mean:
        x = tensor(x_t)
        return Mean((self.posterior(x, t) @ self.points).to(x.dtype).reshape(x.shape))

    def sample(self, rng: Streams) -> Tensor:
        """Exact draws of the data, (B, *shape) float32."""
        return self.points[_pick(self.log_weights.cpu(), rng).to(self.points.device)].float().reshape(-1, *self.shape)


class ExactCategorical(Denoiser):
    """Data from a finite set of sequences. sequences (N, *shape) int64, probabilities (N,).

    It says the posterior of every position by itself, as a network does: sampling several positions in one step draws them
    independently. An x_t that no sequence explains is explained by those that miss the fewest positions.
    """

    process: Masked | UniformCategorical
    sequences: Tensor
    log_weights: Tensor
    lost: Tensor

    def __init__(self, process: Masked | UniformCategorical, sequences: Tensor, probabilities: Sequence[float] | Tensor) -> None:
        super().__init__()
        self.process = process
        self.shape = tuple(sequences.shape[1:])
        self.register_buffer("sequences", sequences.long())
        self.register_buffer("log_weights", _log_weights(probabilities, len(sequences)))
        self.masked = isinstance(process, Masked)
        sizes = torch.tensor(process.sizes, dtype=torch.float64)
        # what a lost position shows: surely the mask, or each of its own categories alike
        self.register_buffer("lost", torch.zeros_like(sizes) if self.masked else 1 / sizes)

    def posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """p(sequence | x_t): (B, N) float64."""
        process = self.process
        a = process.schedule.alpha(t).to(self.lost).reshape(-1, *([1] * len(self.shape)), 1)
        seen, sequences = x_t[..., None], self.sequences.movedim(0, -1)  # (B, *shape, 1), (*shape, N)
        q = a * (seen == sequences) + (1 - a) * self.lost[:, None]
        if self.masked:
            q = torch.where(seen == process.largest, 1.0, q)  # the mask says nothing: the same factor for all sequences
        joint = q.clamp(min=1e-30).log().flatten(1, -2).sum(1) + self.log_weights
        return joint.softmax(-1)

    def forward(self, x_t: State, t: Tensor, cond: Cond | None = None) -> Logits:
        k = self.process.largest
        symbols = one_hot(self.sequences, k).double()  # (N, *shape, K)
        p = torch.tensordot(self.posterior(tensor(x_t), t), symbols, dims=1)
        return Logits(p.log())

    def sample(self, rng: Streams) -> Tensor:
        """Exact draws of the data, (B, *shape) int64."""
        return self.sequences[_pick(self.log_weights.cpu(), rng).to(self.sequences.device)]


class ExactTorus(Denoiser):
    """Data from sum_i weights_i WN(points_i, std_i): wrapped normals, independent by coordinate; std 0 is a finite set.

    points (N, *shape) in radians; std a number or (N,); weights (N,), by default equal.
    """

    process: Torus
    points: Tensor
    std: Tensor
    log_weights: Tensor

    def __init__(
        self,
        process: Torus,
        points: Tensor,
        std: float | Sequence[float] | Tensor = 0.0,
        weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.process = process
        self.shape = tuple(points.shape[1:])
        self.register_buffer("points", wrap(points.double()).flatten(1))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float64).expand(len(points)).clone())
        self.register_buffer("log_weights", _log_weights(weights, len(points)))

    def _turns(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Ways back d (B, N, D, turns), log of their normal densities, and the variance tau^2 (B, N)."""
        tau2 = self.std**2 + (sigma.to(x)[:, None] ** 2).clamp(min=_LEAST)
        reach = 2 + math.ceil(7 * math.sqrt(float(tau2.max())) / (2 * math.pi))
        k = torch.arange(-reach, reach + 1, dtype=torch.float64, device=x.device)
        d = wrap(self.points - x[:, None])[..., None] + 2 * math.pi * k
        v = tau2[..., None, None]
        return d, -0.5 * (d**2 / v + v.log() + math.log(2 * math.pi)), tau2

    def forward(self, x_t: State, t: Tensor, cond: Cond | None = None) -> Tangent:
        x = tensor(x_t)
        sigma = self.process.schedule.sigma(t)
        d, log_n, tau2 = self._turns(x.double().flatten(1), sigma)
        way = (log_n.softmax(-1) * d).sum(-1)  # (B, N, D): E[point - x_t | point]
        joint = self.log_weights + log_n.logsumexp(-1).sum(-1)  # (B, N)
        share = joint.softmax(-1) * ((sigma.to(tau2)[:, None] ** 2).clamp(min=_LEAST) / tau2)
        return Tangent((share[..., None] * way).sum(1).to(x.dtype).reshape(x.shape))

    def sample(self, rng: Streams) -> Tensor:
        """Exact draws of the data, (B, *shape) float32 in [-pi, pi)."""
        i = _pick(self.log_weights.cpu(), rng).to(self.points.device)
        z = rng.normal("oracle", (self.points.shape[1],), device=self.points.device).double()
        return wrap(self.points[i] + self.std[i, None] * z).float().reshape(-1, *self.shape)

    def log_prob(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """log density on the torus in nats, (B,) float64: of the data (std > 0), or of x_t at times t (B,)."""
        t = torch.zeros(len(x), dtype=torch.float64, device=x.device) if t is None else t
        sigma = self.process.schedule.sigma(t)
        _, log_n, _ = self._turns(x.double().flatten(1), sigma)
        return (self.log_weights + log_n.logsumexp(-1).sum(-1)).logsumexp(-1)

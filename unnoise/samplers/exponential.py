"""What the multistep solvers share: polynomials through past predictions, integrated exactly against the exponential of the noise.

With half log-SNR l = log(alpha / sigma), the probability-flow ODE has the exact solution (Lu et al. 2022, 2211.01095, eq. 8)
    x_s = (sigma_s / sigma_t) x_t + alpha_s int_0^h e^(tau - h) x0(l_t + tau) dtau,   h = l_s - l_t,
and, with noise of amplitude eta put in on the way (eta = 1: the reverse SDE), c = 1 + eta^2,
    x_s = (sigma_s / sigma_t) e^(-eta^2 h) x_t + alpha_s c int_0^h e^(c (tau - h)) x0(l_t + tau) dtau
          + sigma_s sqrt(1 - e^(-2 eta^2 h)) z.
A solver replaces x0(l) by the Newton polynomial sum_k x0[l_0 ... l_k] (l - l_0) ... (l - l_(k-1)).

A node that is not there (no history yet, or a point of no signal at all) has l = -inf: every divided difference over it is 0, so a
young history lowers the order by itself. Coefficients are (B,) float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unnoise.core.processes import Gaussian
from unnoise.core.schedules import Schedule
from unnoise.core.state import expand


def half_log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """l = log(alpha / sigma), (B,): +inf at t = 0, -inf where alpha = 0."""
    return 0.5 * schedule.log_snr(t)


@dataclass(frozen=True)
class History:
    """The last predictions, newest first: nodes (B, K), non-finite = absent; values (B, K, ...)."""

    nodes: Tensor
    values: Tensor

    @staticmethod
    def empty(x: Tensor, length: int, absent: float = -torch.inf) -> "History":
        nodes = torch.full((x.shape[0], length), absent, dtype=torch.float64, device=x.device)
        return History(nodes, torch.zeros((x.shape[0], length, *x.shape[1:]), dtype=x.dtype, device=x.device))

    def push(self, node: Tensor, value: Tensor) -> "History":
        """This history with one more point in front; the oldest falls off."""
        keep = self.nodes.shape[1] - 1
        return History(torch.cat([node[:, None], self.nodes[:, :keep]], 1), torch.cat([value[:, None], self.values[:, :keep]], 1))


def divided_differences(nodes: Sequence[Tensor], values: Sequence[Tensor]) -> list[Tensor]:
    """f[0], f[0, 1], ..., f[0 ... K-1], each (B, ...), of values (B, ...) at nodes (B,); 0 over an absent node."""
    row, out = list(values), [values[0]]
    for k in range(1, len(nodes)):
        inverse = []
        for j in range(len(row) - 1):
            gap = nodes[j] - nodes[j + k]
            inverse.append(torch.where(gap.isfinite() & (gap != 0), 1 / gap, 0))
        row = [(row[j] - row[j + 1]) * expand(inverse[j], row[j]) for j in range(len(row) - 1)]
        out.append(row[0])
    return out


def newton_basis(nodes: Sequence[Tensor]) -> list[list[Tensor]]:
    """Coefficients of 1, (tau - n_0), (tau - n_0)(tau - n_1), ... in powers of tau; an absent node counts as 0."""
    one, zero = torch.ones_like(nodes[0]), torch.zeros_like(nodes[0])
    basis = [[one]]
    for node in nodes[:-1]:
        n = torch.where(node.isfinite(), node, 0)
        last = basis[-1]
        basis.append([a - n * b for a, b in zip([zero, *last], [*last, zero])])
    return basis


def moments(h: Tensor, count: int, c: float = 1.0) -> list[Tensor]:
    """c int_0^h e^(c (tau - h)) tau^m dtau for m = 0 ... count - 1; h = inf gives 1, 0, 0, ...: first order."""
    finite = torch.where(h.isfinite(), h, 0)
    out, exact = [-torch.expm1(-c * h)], -torch.expm1(-c * finite)
    for m in range(1, count):
        exact = finite**m - m / c * exact
        out.append(exact)
    return out


def advance(
    process: Gaussian,
    x: Tensor,
    t: Tensor,
    s: Tensor,
    nodes: Sequence[Tensor],
    values: Sequence[Tensor],
    trapezoid: bool = False,
) -> Tensor:
    """x_s from x_t along the ODE, with x0 the polynomial through `values` (B, ...) at half log-SNRs `nodes`, nodes[0] being t's.

    trapezoid: a straight line, through two nodes that are there, counts with its value half-way instead of its integral.
    """
    schedule = process.schedule
    h = half_log_snr(schedule, s) - nodes[0]
    basis = newton_basis([n - nodes[0] for n in nodes])
    power = moments(h, len(nodes))
    if trapezoid and len(nodes) > 1:
        line = torch.stack([n.isfinite() for n in nodes]).sum(0) == 2
        power[1] = torch.where(line & h.isfinite(), power[0] * h / 2, power[1])
    x_s = expand(schedule.sigma(s) / schedule.sigma(t), x) * x
    for coefficients, difference in zip(basis, divided_differences(nodes, values)):
        weight = sum((a * m for a, m in zip(coefficients, power)), torch.zeros_like(h))
        x_s = x_s + expand(schedule.alpha(s) * weight, x) * difference
    return x_s

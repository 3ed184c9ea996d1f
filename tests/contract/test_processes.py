"""One suite over every process: its marginals, its bridge, the way back, its streams.

Distributions are tested by p-values: Kolmogorov-Smirnov for continuous data, chi-square for categories. A test fails at p < 1e-7,
and there are fewer than 1000 p-values in this file: a correct build fails for fewer than 1 choice of seeds in 10,000.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import one_hot

from unnoise.core import processes
from unnoise.core.errors import InputError
from unnoise.core.predictions import Fields, Logits, Mean, Prediction, Tangent
from unnoise.core.processes import Gaussian, Masked, Process, Product, Torus, UniformCategorical
from unnoise.core.random import Streams
from unnoise.core.schedules import EDM, VE, Cosine, LinearVP, RectifiedFlow, SubVP
from unnoise.core.state import batch_size, shape_of, tree_map

N = 4000
LEAST_P = 1e-7


@dataclass(frozen=True)
class Case:
    """A process, one datum, and independent knowledge of the process's laws."""

    process: Process
    datum: Tensor  # one sample, without the batch axis
    marginal: Callable[[Tensor, float], float]  # (x_t (N, ...), t) -> p-value of x_t ~ q(x_t | datum)
    joint: Callable[[Tensor, Tensor, float, float], float]  # (x_s, x_t, s, t) -> p-value of the Markov chain's pair
    point: Callable[[Tensor, Tensor], Prediction]  # (x_0, x_t) -> a prediction that is sure of x_0
    prior: bool  # whether x_1 follows the prior


def scales(process, t):
    time = torch.tensor([t], dtype=torch.float64)
    return float(process.schedule.alpha(time)), float(process.schedule.sigma(time))


def gaussian(schedule, prior=False):
    process, datum = Gaussian(schedule), torch.tensor([0.3, -1.1, 2.0])

    def ks(residual, deviation):
        return stats.kstest((residual.double() / deviation).flatten().numpy(), "norm").pvalue

    def marginal(x, t):
        a, s = scales(process, t)
        return ks(x.double() - a * datum, s)

    def joint(x_s, x_t, s, t):
        (a, b), (c, d) = scales(process, s), scales(process, t)
        left, noise = x_t.double() - c / a * x_s.double(), np.sqrt(d**2 - (c / a * b) ** 2)
        drift = stats.pearsonr(left.flatten().numpy(), (x_s - a * datum).flatten().numpy()).pvalue  # what was added is new
        return min(ks(left, noise), drift)

    return Case(process, datum, marginal, joint, lambda x_0, x_t: Mean(x_0), prior)


def angles(schedule):
    process, datum = Torus(schedule), torch.tensor([3.0, -2.0, 0.1])
    k = np.arange(-12, 13)[:, None, None] * 2 * np.pi

    def wrapped(x, centre, s):
        """The wrapped normal's cdf on [-pi, pi)."""
        z = x.double().numpy() - np.asarray(centre)
        cdf = (stats.norm.cdf((z + k) / s) - stats.norm.cdf((-np.pi - np.asarray(centre) + k) / s)).sum(0)
        return stats.kstest(cdf.flatten(), "uniform").pvalue

    def marginal(x, t):
        return wrapped(x, datum.double().numpy()[None], scales(process, t)[1])

    def joint(x_s, x_t, s, t):
        b, d = scales(process, s)[1], scales(process, t)[1]
        return wrapped(x_t, x_s.double().numpy(), np.sqrt(d**2 - b**2))  # given x_s, Brownian motion on

    def point(x_0, x_t):
        return Tangent(x_0 - x_t)

    return Case(process, datum, marginal, joint, point, True)


def chain(process, symbols, s, t):
    """The forward transition matrix from s to t, (symbols, symbols), of every position: (D, K, K)."""
    keep = scales(process, t)[0] / scales(process, s)[0]
    out = []
    for size in np.broadcast_to(process.sizes, 3):
        lost = np.zeros(symbols)
        if isinstance(process, Masked):
            lost[-1] = 1
        else:
            lost[:size] = 1 / size
        matrix = keep * np.eye(symbols) + (1 - keep) * lost
        if isinstance(process, Masked):
            matrix[-1] = lost
        out.append(matrix)
    return np.stack(out)


def categories(process):
    datum, symbols = torch.tensor([2, 0, 1]), process.tokens()

    def chi2(observed, expected):
        if (observed[expected < 1e-12] > 0).any():
            return 0.0
        rare = expected < 8
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        here = expected > 0
        return stats.chisquare(observed[here], expected[here], sum_check=False).pvalue if here.sum() > 1 else 1.0

    def marginal(x, t):
        p = chain(process, symbols, 0.0, t)[np.arange(3), datum.numpy()]
        return min(chi2(np.bincount(x[:, d].numpy(), minlength=symbols), len(x) * p[d]) for d in range(3))

    def joint(x_s, x_t, s, t):
        first, then = chain(process, symbols, 0.0, s)[np.arange(3), datum.numpy()], chain(process, symbols, s, t)
        counts = [np.bincount(x_s[:, d].numpy() * symbols + x_t[:, d].numpy(), minlength=symbols**2) for d in range(3)]
        return min(chi2(counts[d], len(x_s) * (first[d][:, None] * then[d]).flatten()) for d in range(3))

    def point(x_0, x_t):
        return Logits(one_hot(x_0, process.largest).float().log())

    return Case(process, datum, marginal, joint, point, True)


def both():
    a, b = gaussian(RectifiedFlow(), True), categories(Masked((3,)))
    return Case(
        Product({"x": a.process, "type": b.process}),
        {"x": a.datum, "type": b.datum},
        lambda x, t: min(a.marginal(x["x"], t), b.marginal(x["type"], t)),
        lambda x_s, x_t, s, t: min(a.joint(x_s["x"], x_t["x"], s, t), b.joint(x_s["type"], x_t["type"], s, t)),
        lambda x_0, x_t: Fields({"x": a.point(x_0["x"], x_t["x"]), "type": b.point(x_0["type"], x_t["type"])}),
        True,
    )


ALL = {
    "vp": gaussian(LinearVP()),
    "cosine": gaussian(Cosine(), True),
    "ve": gaussian(VE(0.01, 20.0)),
    "edm": gaussian(EDM(10.0)),
    "sub-vp": gaussian(SubVP()),
    "flow": gaussian(RectifiedFlow(2.0), True),
    "masked": categories(Masked((3,))),
    "masked columns, cosine": categories(Masked((4, 2, 3), Cosine())),
    "uniform": categories(UniformCategorical((3,))),
    "uniform columns": categories(UniformCategorical((4, 2, 3), Cosine())),
    "torus": angles(VE(0.01 * np.pi, 2 * np.pi)),
    "product": both(),
}
every_process = pytest.mark.parametrize("case", ALL.values(), ids=ALL)


def data(case, n=N):
    return tree_map(lambda a: a.expand(n, *a.shape).clone(), case.datum)


def times(t, n=N):
    return torch.full((n,), t, dtype=torch.float64)


def test_every_process_is_in_the_suite():
    kinds = {c for c in vars(processes).values() if isinstance(c, type) and issubclass(c, Process)} - {Process}
    assert {type(c.process) for c in ALL.values()} == kinds


@every_process
@pytest.mark.parametrize("t", [0.02, 0.4, 0.97])
def test_corrupt_has_the_marginal(case, t):
    assert case.marginal(case.process.corrupt(data(case), times(t), Streams.of(1, N)).x_t, t) > LEAST_P


@every_process
def test_corrupt_at_zero_is_the_data(case):
    x = data(case, 5)
    tree_map(
        lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-6),
        case.process.corrupt(x, times(0.0, 5), Streams.of(1, 5)).x_t,
        x,
    )


@every_process
def test_prior_is_where_corruption_ends(case):
    x = case.process.prior(shape_of(data(case, 2)), Streams.of(2, N))
    assert shape_of(x) == shape_of(data(case, 2))
    if case.prior:
        assert case.marginal(x, 1.0) > LEAST_P


@every_process
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_bridge_carries_the_marginal(case, eta):
    """t -> s in one step and by way of r have the law q(x_s | x_0), for every eta."""
    t, r, s, x_0 = 0.9, 0.6, 0.25, data(case)
    rng = Streams.of(3, N)
    x_t = case.process.corrupt(x_0, times(t), rng).x_t
    x_s = case.process.bridge(x_t, x_0, times(t), times(s), eta, rng.at(1))
    assert case.marginal(x_s, s) > LEAST_P
    x_r = case.process.bridge(x_t, x_0, times(t), times(r), eta, rng.at(2))
    assert case.marginal(case.process.bridge(x_r, x_0, times(r), times(s), eta, rng.at(3)), s) > LEAST_P


@every_process
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.5), (0.3, 0.25)])
def test_ancestral_bridge_is_the_markov_chain_reversed(case, t, s):
    """The pair (x_s, x_t) made backwards by the bridge is the pair that the chain makes forwards."""
    x_0, rng = data(case), Streams.of(4, N)
    x_t = case.process.corrupt(x_0, times(t), rng).x_t
    x_s = case.process.bridge(x_t, x_0, times(t), times(s), 1.0, rng.at(1))
    assert case.joint(x_s, x_t, s, t) > LEAST_P


@every_process
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_back_to_zero_with_a_sure_prediction_is_the_data(case, eta):
    x_0, rng = data(case, 64), Streams.of(5, 64)
    x_t = case.process.corrupt(x_0, times(0.7, 64), rng).x_t
    x = case.process.back(x_t, case.point(x_0, x_t), times(0.7, 64), times(0.0, 64), eta, rng.at(1))
    tree_map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-5), x, x_0)


@every_process
def test_rows_do_not_depend_on_their_company(case):
    """Rows at times of their own, in one batch and alone."""
    n, rng = 6, Streams.of(6, 6)
    x_0 = data(case, n)
    t = torch.linspace(0.3, 0.95, n, dtype=torch.float64)
    s = t / 2

    def walk(x_0, t, s, rng):
        x_t = case.process.corrupt(x_0, t, rng).x_t
        x_s = case.process.bridge(x_t, x_0, t, s, 0.7, rng.at(1))
        x_b = case.process.back(x_t, case.point(x_0, x_t), t, s, 0.7, rng.at(2))
        return [x_t, x_s, x_b, case.process.prior(shape_of(x_0), rng)]

    together = walk(x_0, t, s, rng)
    for i in range(n):
        row = slice(i, i + 1)
        alone = walk(tree_map(lambda a, row=row: a[row], x_0), t[row], s[row], rng[row])
        for a, b in zip(together, alone):
            tree_map(lambda a, b, row=row: torch.testing.assert_close(a[row], b, rtol=1e-6, atol=1e-6), a, b)
    assert batch_size(together[0]) == n


@every_process
def test_a_foreign_prediction_is_refused(case):
    class Other(Prediction):
        def map(self, f, *others):
            return self

    x = data(case, 2)
    with pytest.raises(InputError):
        case.process.back(x, Other(), times(0.5, 2), times(0.1, 2), 0.0, Streams.of(0, 2))

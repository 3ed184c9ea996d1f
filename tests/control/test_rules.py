"""Rules of guidance against an independent implementation (diffusers), least squares, closed forms and geometry."""

import numpy as np
import pytest
import torch

from unnoise.control.guidance import bind, classifier_free, guided
from unnoise.control.rules import RULES, Linear, Projected, Rule, ZeroStar, find_rule
from unnoise.core.errors import InputError
from unnoise.core.oracles import ExactGaussian
from unnoise.core.predictions import Fields, Logits, Mean
from unnoise.core.processes import Gaussian, Masked, Product
from unnoise.core.random import Streams
from unnoise.core.schedules import VE, Cosine, DiscreteVP, LinearVP, RectifiedFlow, ZeroTerminal
from unnoise.samplers.euler import Euler
from unnoise.samplers.grids import LogSNR
from unnoise.samplers.heun import Heun
from unnoise.samplers.loop import sample

PROCESS = Gaussian(RectifiedFlow())
B = 4
G = torch.Generator().manual_seed(0)
X, TOWARDS, AWAY = (torch.randn(B, 3, 5, 2, generator=G, dtype=torch.float64) for _ in range(3))
T = torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
W = torch.tensor([0.0, 0.5, 3.0, 7.0], dtype=torch.float64)


def said(rule: Rule, w=W, process=PROCESS, x=X, t=T):
    return rule.start(process)(Mean(TOWARDS), Mean(AWAY), w, x, t).x0


def by_sample(w):
    return w[:, None, None, None]


def test_nothing_projected_is_linear():
    want = AWAY + by_sample(W) * (TOWARDS - AWAY)
    torch.testing.assert_close(said(Projected(parallel=1.0)), want)
    torch.testing.assert_close(said(Linear()), want)


@pytest.mark.parametrize("parallel", [0.0, 0.3])
def test_projected_is_the_papers_algorithm_as_diffusers_has_it(parallel):
    """A walk of four times. There the norm is a length, and their scale counts from 0 at the conditional end."""
    module = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    buffer = module.MomentumBuffer(-0.6)
    combine = Projected(parallel, -0.6, norm=0.9).start(PROCESS)
    for i, t in enumerate((0.9, 0.6, 0.3, 0.1)):
        towards, away = TOWARDS.roll(i, 0), AWAY.roll(i, 2) * (1 + i)
        want = module.normalized_guidance(towards, away, 4.0, buffer, parallel, 0.9 * 30**0.5, use_original_formulation=True)
        got = combine(Mean(towards), Mean(away), torch.full((B,), 5.0), X, torch.full((B,), t, dtype=torch.float64))
        torch.testing.assert_close(got.x0, want)


def test_a_projected_push_is_orthogonal_and_bounded():
    push = (said(Projected(norm=0.2)) - TOWARDS) / by_sample(W - 1)
    cosine = (push * TOWARDS).sum((1, 2, 3)) / (push.flatten(1).norm(dim=1) * TOWARDS.flatten(1).norm(dim=1))
    assert cosine.abs().max() < 1e-12
    d = TOWARDS - AWAY
    along = (d * TOWARDS).sum((1, 2, 3)) / (TOWARDS**2).sum((1, 2, 3))
    whole = d - by_sample(along) * TOWARDS
    torch.testing.assert_close(push, whole * (0.2 / by_sample(d.flatten(1).square().mean(1).sqrt())))
    assert push.flatten(1).square().mean(1).sqrt().max() <= 0.2


def test_momentum_is_a_geometric_sum_with_one_term_a_time():
    """With a constant difference d the k-th time pushes by d (1 - beta^k) / (1 - beta)."""
    beta, combine = -0.5, Projected(1.0, -0.5).start(PROCESS)
    two = torch.full((B,), 2.0)

    def terms(t):
        push = combine(Mean(TOWARDS), Mean(AWAY), two, X, t).x0 - TOWARDS
        share = (push / (TOWARDS - AWAY)).flatten(1)
        torch.testing.assert_close(share.amin(1), share.amax(1))
        return 1 - share[:, 0] * (1 - beta)  # beta^k

    falling = torch.tensor([0.9, 0.8, 0.7, 0.6], dtype=torch.float64)
    for k in (1, 2, 3):
        for _ in range(2):  # asked twice at one time, as Heun does: counted once
            torch.testing.assert_close(terms(falling - 0.1 * k), torch.full((B,), beta**k, dtype=torch.float64))
    mixed = torch.tensor([0.5, 0.95, 0.2, 0.1], dtype=torch.float64)  # the second sample's time rises: it begins anew
    torch.testing.assert_close(terms(mixed), torch.tensor([beta**4, beta, beta**4, beta**4], dtype=torch.float64))
    one = torch.tensor([2.0, 1.0, 2.0, 2.0])  # not guided: no term, nothing forgotten
    combine(Mean(TOWARDS), Mean(AWAY), one, X, mixed - 0.05)
    torch.testing.assert_close(terms(mixed - 0.08), torch.tensor([beta**6, beta**2, beta**6, beta**6], dtype=torch.float64))


def test_two_walks_do_not_share_a_memory():
    rule = Projected(1.0, -0.9)
    first, again = rule.start(PROCESS), rule.start(PROCESS)
    first(Mean(TOWARDS), Mean(AWAY), W, X, T)
    first(Mean(TOWARDS), Mean(AWAY), W, X, T - 0.05)
    torch.testing.assert_close(again(Mean(TOWARDS), Mean(AWAY), W, X, T - 0.05).x0, said(Linear()))


def velocity(schedule, x, x0, t):
    """dx_t/dt = alpha' x_0 + sigma' eps, the derivatives by central differences."""
    h = 1e-6
    a, s = schedule.alpha(t), schedule.sigma(t)
    da, ds = ((f(t + h) - f(t - h)) / (2 * h) for f in (schedule.alpha, schedule.sigma))
    return by_sample(da) * x0 + by_sample(ds) * (x - by_sample(a) * x0) / by_sample(s)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), LinearVP(), Cosine(), VE()])
def test_zero_star_fits_the_unconditional_velocity_by_least_squares(schedule):
    t = torch.tensor([0.1, 0.4, 0.7, 0.9], dtype=torch.float64)
    v_c, v_u = (velocity(schedule, X, x0, t) for x0 in (TOWARDS, AWAY))
    s = torch.tensor([np.linalg.lstsq(u.reshape(-1, 1), c.flatten(), rcond=None)[0][0] for c, u in zip(v_c.numpy(), v_u.numpy())])
    want = by_sample(s) * v_u + by_sample(W) * (v_c - by_sample(s) * v_u)
    got = velocity(schedule, X, said(ZeroStar(), process=Gaussian(schedule), t=t), t)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", [RectifiedFlow(), LinearVP(), Cosine(), ZeroTerminal(DiscreteVP())])
def test_zero_star_begins_where_no_signal_is_left(schedule):
    t = torch.ones(4, dtype=torch.float64)
    assert said(ZeroStar(), process=Gaussian(schedule), t=t).isfinite().all()
    assert said(ZeroStar(0.1), process=Gaussian(schedule), t=t).isfinite().all()


def test_zero_star_is_as_diffusers_has_it():
    """Theirs is float32, and acts on the velocity eps - x_0, which for a rectified flow is (x_t - x_0) / t."""
    module = pytest.importorskip("diffusers.guiders.classifier_free_zero_star_guidance")
    v_c, v_u = ((X - x0) / by_sample(T) for x0 in (TOWARDS, AWAY))
    s = by_sample(module.cfg_zero_star_scale(v_c.flatten(1), v_u.flatten(1))[:, 0])
    want = X - by_sample(T) * (s * v_u + by_sample(W) * (v_c - s * v_u))
    torch.testing.assert_close(said(ZeroStar()), want, rtol=1e-5, atol=1e-5)


def test_zero_init_leaves_the_start_where_it_is():
    m = ExactGaussian(PROCESS, torch.tensor([1.0, -1.0]), 0.1)
    other = ExactGaussian(PROCESS, torch.zeros(2), 1.0)
    rng = Streams.of(0, 8)
    x = PROCESS.prior((2,), rng)
    walk = guided(bind(m, {}), bind(other, {}), 3.0, combine=ZeroStar(zero_init=0.3).start(PROCESS))
    there = sample(walk, PROCESS, x, torch.tensor([1.0, 0.72, 0.68, 0.4]), Euler(), rng)
    torch.testing.assert_close(sample(walk, PROCESS, x, torch.tensor([1.0, 0.72, 0.68]), Euler(), rng), x)
    plain = guided(bind(m, {}), bind(other, {}), 3.0, combine=ZeroStar().start(PROCESS))
    torch.testing.assert_close(there, sample(plain, PROCESS, x, torch.tensor([0.68, 0.4]), Euler(), rng))


@pytest.mark.parametrize("rule", [Projected(0.2, -0.5, 0.1), ZeroStar(0.5)])
def test_scale_one_is_the_conditional_bit_by_bit_whatever_the_rule(rule):
    towards, away = (lambda x, t: Mean(TOWARDS)), (lambda x, t: Mean(AWAY))
    scale = torch.tensor([1.0, 2.0, 1.0, 2.0])
    got = guided(towards, away, scale, combine=rule.start(PROCESS))(X, T).x0
    assert torch.equal(got[[0, 2]], TOWARDS[[0, 2]])
    assert (got[[1, 3]] - TOWARDS[[1, 3]]).abs().max() > 1e-2


def test_classifier_free_and_guided_are_one_formula():
    """Half of the samples outside the interval, one scale a sample, momentum: as two separate calls."""

    def net(x, t, cond):
        return Mean(x * cond["vector"][..., None, None] + t[:, None, None, None])

    cond, away = {"vector": torch.full((B, 1), 2.0)}, {"vector": torch.full((B, 1), -1.0)}
    rule, interval = Projected(0.5, -0.5, 0.7), (0.3, 0.75)
    one = classifier_free(net, cond, away, W, interval, 0.3, rule.start(PROCESS))
    two = guided(bind(net, cond), bind(net, away), W, interval, 0.3, rule.start(PROCESS))
    for t in (T, T - 0.05, T - 0.1):
        torch.testing.assert_close(one(X, t).x0, two(X, t).x0)


def test_guided_normals_of_two_widths_end_where_the_path_says():
    """One mean, variances v_c and v_u, sigma from S to 0 with alpha = 1: d log(x - m) = sum_i c_i sigma / (v_i + sigma^2) d sigma,
    c = (w, 1 - w), so x_0 - m = (x_S - m) prod_i (v_i / (v_i + S^2))^(c_i / 2). That is not the tilted law p_u (p_c / p_u)^w, whose
    variance is 1 / (w / v_c + (1 - w) / v_u): guidance is no sampler of it (see benchmarks/guidance.py)."""
    process = Gaussian(VE(0.01, 20.0))
    m, v_c, v_u, w = torch.tensor([0.3, -0.2], dtype=torch.float64), 0.2, 1.0, 3.0
    rng = Streams.of(1, 16)
    x = process.prior((2,), rng).double()
    both = (bind(ExactGaussian(process, m, v), {}) for v in (v_c, v_u))
    end = sample(guided(*both, w), process, x, LogSNR(-6.5, 12).times(300, process), Heun(), rng)
    top = float(process.schedule.sigma(torch.ones(())))
    want = m + (x - m) * (v_c / (v_c + top**2)) ** (w / 2) * (v_u / (v_u + top**2)) ** ((1 - w) / 2)
    torch.testing.assert_close(end, want, rtol=2e-3, atol=2e-4)


def test_fields_are_combined_each_in_its_way():
    process = Product({"x": PROCESS, "kind": Masked((4,), RectifiedFlow())})
    logits = torch.randn(2, B, 5, 4, generator=G, dtype=torch.float64)
    towards, away = (Fields({"x": Mean(m), "kind": Logits(z)}) for m, z in zip((TOWARDS, AWAY), logits))
    state = {"x": X, "kind": torch.zeros(B, 5, dtype=torch.long)}
    for rule in (Projected(0.0, -0.5, 0.3), ZeroStar()):
        got = rule.start(process)(towards, away, W, state, T)
        torch.testing.assert_close(got.fields["x"].x0, said(rule))
        torch.testing.assert_close(got.fields["kind"].logits, logits[1] + W[:, None, None] * (logits[0] - logits[1]))


def test_refusals():
    for rule in (Projected(), ZeroStar()):
        with pytest.raises(InputError, match="means of continuous data; this process is Masked: use Linear"):
            rule.start(Masked((4,), RectifiedFlow()))
    for make in (
        lambda: Projected(parallel=2.0), lambda: Projected(momentum=1.0), lambda: Projected(norm=0.0),
        lambda: ZeroStar(1.0), lambda: Projected(momentum=float("nan")),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"guidance|CFG-Zero"):
            make()
    with pytest.raises(InputError, match="unknown guidance rule 'app'; did you mean 'apg'"):
        find_rule("app")
    assert all(find_rule(name) is rule for name, rule in RULES.items())

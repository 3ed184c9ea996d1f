"""Step caching against closed forms, and against networks whose deep features are put in place by hand."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unnoise.control.guidance import bind, classifier_free
from unnoise.control.step_caching import CachedDenoiser, Every, StepCaching, When, Within, lagrange
from unnoise.core.denoisers import Denoiser, NetworkDenoiser
from unnoise.core.errors import InputError
from unnoise.core.preconditioning import Velocity
from unnoise.core.processes import Gaussian
from unnoise.core.random import Streams
from unnoise.core.schedules import RectifiedFlow
from unnoise.modalities.words.emphasis import padded
from unnoise.networks.flux import FluxConfig
from unnoise.networks.mp_unet import MPUNetConfig
from unnoise.networks.patched import PatchedConfig
from unnoise.networks.pixart import PixArtConfig
from unnoise.networks.sana import SanaConfig
from unnoise.networks.sd3 import SD3Config
from unnoise.networks.sd_unet import SDUNetConfig
from unnoise.networks.steering import residual
from unnoise.networks.transformer import DiffusionTransformerConfig
from unnoise.networks.unet import UNetConfig
from unnoise.samplers.loop import sample
from unnoise.samplers.registry import find_sampler

PROCESS = Gaussian(RectifiedFlow())
TIMES = torch.linspace(1, 0, 13, dtype=torch.float64)
NETWORKS: Mapping[str, Any] = {
    "sd_unet": SDUNetConfig(3, (8, 16), 2, (1, 1), 1, (2, 4), 6, 10, groups=4),
    "sd3": SD3Config(3, 2, 16, 2, 2, 6, 10, True, (0,), positions=20, unit=8),
    "flux": FluxConfig(3, 2, 16, 1, 2, 2, (2, 2, 4), 6, 10),
    "pixart": PixArtConfig(3, 2, 16, 2, 2, 10),
    "sana": SanaConfig(3, 1, 16, 2, 4, 2, 24, 10),
    "transformer": DiffusionTransformerConfig(3, 2, 16, 3, 2, 8, 6, 10),
    "unet": UNetConfig(3, None, 8, (1, 2), 1, (1,), (0, 1), 6, 10, head_dim=4, groups=4),
    "patched": PatchedConfig(UNetConfig(12, None, 8, (1, 1), 1, (), (1,), 6, 10, head_dim=4, groups=4)),
}
everything = pytest.mark.parametrize("name", NETWORKS)


def build(name: str) -> Any:
    """With random values in place of what starts at zero."""
    torch.manual_seed(0)
    network = NETWORKS[name].build().eval().requires_grad_(False)
    for p in network.parameters():
        p.copy_(torch.randn_like(p) * (0.3 if p.ndim == 1 else p[0].numel() ** -0.5))
    return network


def condition(rows: int) -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = torch.arange(7) < torch.arange(rows)[:, None] + 2
    return {"vector": torch.randn(rows, 6), "tokens": torch.randn(rows, 7, 10), "mask": mask}


def denoiser(network: nn.Module) -> NetworkDenoiser:
    return NetworkDenoiser(network, PROCESS, Velocity())


def walk(net: Denoiser, sampler: str, steps: int = 7) -> Tensor:
    chosen = find_sampler(sampler)
    rng = Streams.each((1, 2))
    x = PROCESS.prior((3, 8, 6), rng, torch.device("cpu"))
    denoise = classifier_free(net, condition(2), {k: v.flip(0) for k, v in condition(2).items()}, 3.0, (0.2, 0.8))
    out = sample(denoise, PROCESS, x, chosen.grid.times(steps, PROCESS), chosen.sampler, rng)
    assert isinstance(out, Tensor)
    return out


@everything
@pytest.mark.parametrize("sampler", ["dpmpp-2m", "heun"])
def test_interval_1_is_the_network_itself(name: str, sampler: str) -> None:
    net = denoiser(build(name))
    cached = CachedDenoiser(net, StepCaching(Every(1), 2))
    assert torch.equal(walk(cached, sampler), walk(net, sampler))
    assert cached.computed == cached.asked


@everything
def test_a_longer_interval_computes_less_and_says_something_else(name: str) -> None:
    net = denoiser(build(name))
    cached = CachedDenoiser(net, StepCaching(Every(3), 1))
    once = walk(cached, "dpmpp-2m", 24)
    assert cached.computed < 0.6 * cached.asked
    difference = (once - walk(net, "dpmpp-2m", 24)).norm() / once.norm()
    assert 1e-5 < float(difference) < 0.5
    assert torch.equal(walk(cached, "dpmpp-2m", 24), once), "a second walk begins anew"


def test_features_begin_anew_where_an_adapter_begins_or_ends() -> None:
    """Not forecast from features in which it had its say."""
    net, cond = denoiser(build("sd_unet")), condition(2)
    said = {**cond, residual("middle", 0): torch.randn(2, 16, 4, 4)}
    cached, x = CachedDenoiser(net, StepCaching(Every(3))), torch.randn(2, 3, 8, 8)
    for t, told, anew in ((0.9, said, True), (0.8, said, False), (0.7, cond, True), (0.6, cond, False), (0.5, said, True)):
        at, before = torch.full((2,), t), cached.computed
        same = torch.equal(cached(x, at, told).x0, net(x, at, told).x0)
        assert (same, cached.computed - before) == ((True, 2) if anew else (False, 0))


# -- against features put in place by hand ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own", "last_of"),
    [
        ("sd_unet", 8, lambda network: network.up[-1].residuals[-1]),
        ("unet", 8, lambda network: network.blocks[-1]),
        ("patched", 8, lambda network: network.network.blocks[-1]),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_deepcache_is_the_u_net_with_old_features_before_its_last_block(
    name: str, own: int, last_of: Callable[[Any], nn.Module]
) -> None:
    """own: channels of the first layer, whose features are always new."""
    network = build(name)
    net, cond = denoiser(network), condition(2)
    cached = CachedDenoiser(net, StepCaching(Every(2)))
    last, seen = last_of(network), []
    x, y, t, s = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.full((2,), 0.9), torch.full((2,), 0.7)
    watching = last.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    cached(x, t, cond)
    watching.remove()
    deep = seen[0].shape[1] - own
    swap = last.register_forward_pre_hook(lambda m, given: (torch.cat([seen[0][:, :deep], given[0][:, deep:]], 1), *given[1:]))
    expected = net(y, s, cond).x0
    swap.remove()
    assert torch.equal(cached(y, s, cond).x0, expected)
    assert not torch.allclose(net(y, s, cond).x0, expected)


@pytest.mark.parametrize("name", ["pixart", "transformer", "sana"])
def test_reuse_is_a_transformer_whose_blocks_add_what_they_added(name: str) -> None:
    network = build(name)
    net, cond = denoiser(network), condition(2)
    cached = CachedDenoiser(net, StepCaching(Every(2)))
    x, y, t, s = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.full((2,), 0.9), torch.full((2,), 0.7)
    begins, ends = [], []
    hooks = [
        network.blocks[0].register_forward_pre_hook(lambda m, given: begins.append(given[0])),
        network.blocks[-1].register_forward_hook(lambda m, given, out: ends.append(out)),
    ]
    cached(x, t, cond)
    net(y, s, cond)
    for h in hooks:
        h.remove()
    network.blocks[-1].register_forward_hook(lambda m, given, out: begins[1] + (ends[0] - begins[0]))
    torch.testing.assert_close(cached(y, s, cond).x0, net(y, s, cond).x0, rtol=1e-5, atol=1e-5)


# -- against closed forms ------------------------------------------------------------------------------------------------------


@dataclass
class Parts:
    x: Tensor
    t: Tensor
    base: Tensor | None


class Curve(nn.Module):
    """A network whose deep features are a function of the time, different for every sample, and what it says their sum with x."""

    def __init__(self, course: Callable[[Tensor], Tensor], based: bool = False) -> None:
        super().__init__()
        self.course, self.based, self.runs = course, based, 0

    def forward(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        entered = self.enter(x, noise_level, cond)
        return self.leave(entered, self.deep(entered))

    def enter(self, x: Tensor, noise_level: Tensor, cond: Mapping[str, Tensor]) -> Parts:
        return Parts(x, noise_level.double(), torch.sin(x) if self.based else None)

    def deep(self, entered: Parts) -> Tensor:
        self.runs += len(entered.t)
        features = self.course(entered.t)[:, None] * torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
        return features if entered.base is None else entered.base + features

    def leave(self, entered: Parts, deep: Tensor) -> Tensor:
        return 0.1 * entered.x + deep


UNEVEN = [1.0, 0.93, 0.9, 0.81, 0.66, 0.6, 0.51, 0.4, 0.37, 0.22, 0.15, 0.1, 0.03]


def polynomial(degree: int) -> Callable[[Tensor], Tensor]:
    return lambda t: sum(((-1.3) ** i * (1 + i) * t**i for i in range(degree + 1)), torch.zeros_like(t))


def said(
    when: When, order: int, course: Callable[[Tensor], Tensor], times: list[float], based: bool = False
) -> tuple[Tensor, Tensor]:
    """What the cached network says at each time, and the truth; both (times, 2, 3)."""
    network = Curve(course, based)
    cached = CachedDenoiser(NetworkDenoiser(network, PROCESS, Velocity()), StepCaching(when, order))
    out = []
    for i, t in enumerate(times):
        torch.manual_seed(i)
        x = torch.randn(2, 3, dtype=torch.float64)
        level = torch.tensor([t, 0.7 * t], dtype=torch.float64)  # every sample at a time of its own
        out.append((cached._said(x, level, level, {}), network(x, level, {})))
    a, b = zip(*out)
    return torch.stack(a), torch.stack(b)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("based", [False, True])
def test_a_forecast_of_order_m_is_exact_for_features_of_degree_m(degree: int, based: bool) -> None:
    when = Every(4)
    cached, truth = said(when, degree, polynomial(degree), UNEVEN, based)
    torch.testing.assert_close(cached, truth, rtol=1e-9, atol=1e-9)
    if degree:
        lower, truth = said(when, degree - 1, polynomial(degree), UNEVEN, based)
        assert float((lower - truth).abs().max()) > 1e-3


def test_forecasts_follow_the_noise_level_that_the_network_is_told() -> None:
    """Features linear in log-SNR / 4, which is no polynomial in time, are forecast exactly."""
    net = NetworkDenoiser(Curve(polynomial(1)), PROCESS, Velocity())
    cached = CachedDenoiser(net, StepCaching(Every(4), 1))
    for time in UNEVEN[1:]:
        x, t = torch.randn(2, 3, dtype=torch.float64), torch.tensor([time, 0.7 * time], dtype=torch.float64)
        torch.testing.assert_close(cached(x, t, {}).x0, net(x, t, {}).x0, rtol=1e-6, atol=1e-6)
    assert cached.computed < cached.asked


def test_the_error_of_a_forecast_is_newtons() -> None:
    """For f = t^3 and m = 2 the divided difference of order 3 is 1: the error is the product of the distances, exactly."""
    cached, truth = said(Every(4), 2, lambda t: t**3, UNEVEN[:6])
    computed = torch.tensor(UNEVEN[:3], dtype=torch.float64)
    for i in (3, 4):
        product = (UNEVEN[i] - computed).prod()
        torch.testing.assert_close((truth - cached)[i, 0, 0], product, rtol=1e-9, atol=1e-12)


def test_weights_are_lagranges() -> None:
    times = torch.tensor([[0.3, 0.2], [0.5, 0.6], [0.9, math.nan]], dtype=torch.float64)
    w = lagrange(torch.tensor([0.1, 0.1], dtype=torch.float64), times)
    expected = [[(0.1 - 0.5) * (0.1 - 0.9) / (-0.2 * -0.6), (0.1 - 0.6) / (0.2 - 0.6)],
                [(0.1 - 0.3) * (0.1 - 0.9) / (0.2 * -0.4), (0.1 - 0.2) / (0.6 - 0.2)],
                [(0.1 - 0.3) * (0.1 - 0.5) / (0.6 * 0.4), 0.0]]  # fmt: skip
    torch.testing.assert_close(w, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("budget", [0.003, 0.03])
def test_a_budget_is_kept(order: int, budget: float) -> None:
    """Features that turn and grow smoothly: what is said is wrong by about the budget at most, and part of it is forecast."""
    times = [1 - i / 200 for i in range(200)]
    course: Callable[[Tensor], Tensor] = lambda t: 2 + torch.sin(2 * t) + t**2  # noqa: E731
    cached, truth = said(Within(budget, most=40), order, course, times)
    error = (cached - truth).norm(dim=-1) / truth.norm(dim=-1)
    assert float(error.max()) < 2.5 * budget
    assert float((error > 0).double().mean()) > 0.15


def test_a_budget_of_nothing_computes_all_that_changes() -> None:
    cached, truth = said(Within(0.0), 1, torch.cos, UNEVEN)
    assert torch.equal(cached, truth)


def test_no_more_forecasts_in_a_row_than_most() -> None:
    network = Curve(torch.ones_like)
    cached = CachedDenoiser(NetworkDenoiser(network, PROCESS, Velocity()), StepCaching(Within(0.1, most=2)))
    for t in UNEVEN[:11]:
        at = torch.tensor([t], dtype=torch.float64)
        cached._said(torch.ones(1, 3, dtype=torch.float64), at, at, {})
    assert cached.computed == 2 + 3  # the first two to learn the constant, then one in three
    assert network.runs == cached.computed


# -- samples that share a batch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [StepCaching(Within(0.1), 1), StepCaching(Every(3), 2)], ids=["within", "every"])
def test_a_sample_comes_out_the_same_alone_and_in_company(how: StepCaching) -> None:
    network, n = build("transformer").double(), 3
    cond = {k: v.double() if v.is_floating_point() else v for k, v in condition(n).items()}
    whole = CachedDenoiser(denoiser(network), how)
    alone = [CachedDenoiser(denoiser(network), how) for _ in range(n)]
    torch.manual_seed(2)
    start, way = torch.randn(2, n, 3, 8, 8, dtype=torch.float64)
    for i in range(10):
        t = torch.tensor([0.95, 0.9, 0.5]) ** (1 + 0.02 * i)
        x = start + 0.02 * i * way
        together = whole(x, t.double(), cond).x0
        for k, one in enumerate(alone):
            row = slice(k, k + 1)
            said_alone = one(x[row], t[row].double(), {name: v[row] for name, v in cond.items()}).x0
            torch.testing.assert_close(said_alone, together[row], rtol=1e-9, atol=1e-9)
    assert whole.computed == sum(one.computed for one in alone) < whole.asked


@pytest.mark.parametrize("how", [StepCaching(Within(0.1), 1), StepCaching(Every(3), 2)], ids=["within", "every"])
def test_guidance_of_others_that_begins_and_ends_is_no_sample_s_concern(how: StepCaching) -> None:
    """Rows join and leave, and words are padded to the longest of other samples'. The second sample is led away from nothing."""
    torch.manual_seed(3)
    network, lengths, scales = build("sana").double(), ((4, 6), (3, 9), (5, 2)), torch.tensor([3.0, 1.0, 2.0])
    words = [[torch.randn(n, 10, dtype=torch.float64) for n in both] for both in lengths]

    def told(side: int, rows: list[int]) -> dict[str, Tensor]:
        tokens, mask = padded([words[i][side] for i in rows])
        return {"tokens": tokens} if bool(mask.all()) else {"tokens": tokens, "mask": mask}

    def drawn(rows: list[int]) -> tuple[Tensor, CachedDenoiser]:
        net, rng = CachedDenoiser(denoiser(network), how), Streams.each(rows)
        denoise = classifier_free(net, told(0, rows), told(1, rows), scales[rows], (0.2, 0.7))
        out = sample(
            denoise, PROCESS, PROCESS.prior((3, 4, 4), rng, torch.device("cpu")), TIMES, find_sampler("euler").sampler, rng
        )
        assert isinstance(out, Tensor)
        return out, net

    together, whole = drawn([0, 1, 2])
    alone = [drawn([i]) for i in range(3)]
    assert whole.computed == sum(one.computed for _, one in alone) < whole.asked
    for i, (picture, _) in enumerate(alone):
        torch.testing.assert_close(together[i : i + 1], picture, rtol=1e-6, atol=1e-6)


def test_what_changes_begins_anew() -> None:
    network = build("transformer")
    net, cond = denoiser(network), condition(3)
    cached = CachedDenoiser(net, StepCaching(Every(100)))
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([0.9, 0.8, 0.7])

    def agrees(time: Tensor, told: dict[str, Tensor]) -> list[bool]:
        rows = len(time)
        a, b = cached(x[:rows] + 1, time, told).x0, net(x[:rows] + 1, time, told).x0
        return [bool(torch.allclose(a[i], b[i], rtol=1e-4, atol=1e-5)) for i in range(rows)]

    cached(x, t, cond)
    assert agrees(t - 0.1, cond) == [False] * 3
    assert agrees(torch.tensor([0.95, 0.6, 0.5]), cond) == [True, False, False], "the first goes up again"
    other = cond | {"vector": cond["vector"] + torch.tensor([0.0, 1.0, 0.0])[:, None]}
    assert agrees(torch.tensor([0.5, 0.5, 0.4]), other) == [False, True, False], "the second is told something else"
    assert agrees(torch.tensor([0.3, 0.3]), {k: v[:2] for k, v in cond.items()}) == [False, True], "fewer rows; the second's words"
    few = {k: v[:2] for k, v in cond.items()}
    assert agrees(torch.tensor([0.1, 0.1]), few) == [False, False]
    assert agrees(torch.tensor([0.08, 0.08]), few) == [False, False]
    assert agrees(torch.tensor([0.2, 0.05]), few) == [True, False], "up again from forecasts, below what was computed"
    assert agrees(torch.tensor([0.1, 0.06]), few) == [False, False], "within a step churn goes up a little"
    x = torch.randn(2, 3, 6, 4)
    assert agrees(torch.tensor([0.2, 0.2]), {k: v[:2] for k, v in cond.items()}) == [True, True], "another size"


def test_adapters_residuals_may_change_with_every_step() -> None:
    network = build("sd3")
    cached = CachedDenoiser(denoiser(network), StepCaching(Every(2)))
    for i, t in enumerate((0.9, 0.8)):
        residuals = {"residual.block.0": torch.full((2, 12, 16), float(i))}
        cached(torch.randn(2, 3, 8, 6), torch.full((2,), t), condition(2) | residuals)
    assert cached.computed == 2


def test_bad_input() -> None:
    with pytest.raises(InputError, match="a MPUNet has no deep part of its own"):
        CachedDenoiser(denoiser(MPUNetConfig(3, None, 8, (1, 2), 1, (1,), 5, head_dim=4).build()), StepCaching())
    with pytest.raises(InputError, match="every 0-th call"):
        Every(0)
    with pytest.raises(InputError, match="budget -1"):
        Within(-1)
    with pytest.raises(InputError, match="order 9"):
        StepCaching(order=9)
    assert bind(denoiser(build("sd3")), {})(torch.randn(1, 3, 4, 4), torch.tensor([0.5])).x0.isfinite().all()

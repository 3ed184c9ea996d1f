"""Adapters against the dense sum W + sum w D, computed here from the published formulas."""

import copy
import weakref

import pytest
import torch
from torch import Tensor, nn

from unnoise.control.low_rank import Adapted, Adapter, Change, Decomposed, Hadamard, Kronecker, LowRank, Place, Replaced, Whole
from unnoise.core.errors import InputError
from unnoise.networks.layers import RMSNorm
from unnoise.networks.norm import GroupNorm


class Small(nn.Module):
    """A network with a linear layer of three parts in one, one without offset, and convolutions of both kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(6, 12), nn.Linear(12, 4, bias=False)
        self.conv, self.point = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, 6) -> (B, 6, H / 2, W / 2)"""
        h = self.out(self.wide(x).tanh()).permute(0, 3, 1, 2)
        return self.point(self.conv(h).tanh())


@pytest.fixture
def network() -> Small:
    torch.manual_seed(0)
    return Small()


X = torch.randn(2, 6, 8, 6, generator=torch.Generator().manual_seed(1))


def r(*shape: int) -> Tensor:
    return torch.randn(*shape) * 0.5


def cases() -> dict[str, tuple[str, Change, Tensor]]:
    """Name -> layer, a change of rows 4 ... 8 of it (all rows of convolutions), and its D by the formula."""
    torch.manual_seed(2)
    a, b, b1, a1, b2, a2 = r(3, 6), r(4, 3), r(4, 2), r(2, 6), r(4, 2), r(2, 6)
    c, d, m_rows, m_columns, whole = r(2, 3), r(2, 2), r(4).abs(), r(6).abs(), r(4, 6)
    down, up, kd, kc = r(2, 4, 3, 3), r(6, 2), r(3, 2, 3, 3), r(2, 2)
    torch.manual_seed(0)
    rows = Small().wide.weight[4:8].detach()
    moved = rows + 0.5 * b @ a
    kron = torch.tensor([[float(c[i // 2, j // 2] * d[i % 2, j % 2]) for j in range(6)] for i in range(4)])
    kron_conv = torch.einsum("ab,cdhw->acbdhw", kc, kd).reshape(6, 4, 3, 3)
    by_rows = m_rows[:, None] * moved / moved.square().sum(1, keepdim=True).sqrt() - rows
    by_columns = m_columns * moved / moved.square().sum(0).sqrt() - rows
    return {
        "low rank": ("wide", LowRank(a, b, 0.5), 0.5 * b @ a),
        "Hadamard": ("wide", Hadamard((b1, a1), (b2, a2), 0.5), 0.5 * (b1 @ a1) * (b2 @ a2)),
        "Kronecker": ("wide", Kronecker((c,), (d,), 0.5), 0.5 * kron),
        "whole": ("wide", Whole(whole), whole),
        "by rows": ("wide", Decomposed(LowRank(a, b, 0.5), m_rows), by_rows),
        "by columns": ("wide", Decomposed(LowRank(a, b, 0.5), m_columns, True), by_columns),
        "convolution": ("conv", LowRank(down, up, 2.0), 2 * torch.einsum("or,rihw->oihw", up, down)),
        "Kronecker convolution": ("conv", Kronecker((kc,), (kd,), 1.0), kron_conv),
    }


def adapter(layer: str, change: Change) -> Adapter:
    return Adapter([(Place(layer, 4, 4) if layer == "wide" else Place(layer, 0, 6), change)])


def dense(network: Small, layer: str, delta: Tensor, weight: float) -> Tensor:
    changed = copy.deepcopy(network)
    target = changed.get_submodule(layer).weight.data
    (target[4:8] if layer == "wide" else target).add_(weight * delta)
    return changed(X)


@pytest.mark.parametrize("name", cases())
def test_every_kind_beside_the_weights_and_merged(network: Small, name: str) -> None:
    layer, change, delta = cases()[name]
    expected, before = dense(network, layer, delta, 0.7), network(X)
    adapted = Adapted.of(network)
    adapted.set({"a": (adapter(layer, change), 0.7)})
    torch.testing.assert_close(network(X), expected)
    assert (network(X) - before).abs().max() > 1e-2
    adapted.merge()
    torch.testing.assert_close(network(X), expected)
    adapted.unmerge()
    torch.testing.assert_close(network(X), expected)
    adapted.set({"a": (adapter(layer, change), 0.0)})
    assert torch.equal(network(X), before)


@pytest.mark.parametrize("name", [n for n in cases() if n not in ("by columns", "convolution", "Kronecker convolution")])
def test_some_rows_of_a_change(network: Small, name: str) -> None:
    _, change, delta = cases()[name]
    torch.testing.assert_close(change.narrowed(1, 2).delta(network.wide.weight[5:7]), delta[1:3])


def test_several_on_one_layer_add_up(network: Small) -> None:
    some = {n: cases()[n] for n in ("low rank", "by rows", "Kronecker", "whole")}
    weights = dict(zip(some, (0.3, -0.5, 1.2, 0.8)))
    expected = dense(network, "wide", sum(weights[n] * delta for n, (_, _, delta) in some.items()), 1.0)
    Adapted.of(network).set({n: (adapter(layer, change), weights[n]) for n, (layer, change, _) in some.items()})
    torch.testing.assert_close(network(X), expected)
    Adapted.of(network).merge()
    torch.testing.assert_close(network(X), expected)


def test_offsets_also_where_the_layer_has_none(network: Small) -> None:
    wide, out = r(4), r(4)
    both = Adapter([
        (Place("wide", 4, 4), LowRank(torch.zeros(1, 6), torch.zeros(4, 1), offset=wide)),
        (Place("out", 0, 4), Whole(offset=out)),
    ])  # fmt: skip
    changed = copy.deepcopy(network)
    changed.wide.bias.data[4:8] += 0.5 * wide
    changed.out.bias = nn.Parameter(0.5 * out)
    adapted = Adapted.of(network)
    adapted.set({"a": (both, 0.5)})
    for act in (adapted.merge, adapted.unmerge):
        torch.testing.assert_close(network(X), changed(X))
        act()
    assert network.out.bias is None
    convolved = Adapter([(Place("conv", 2, 4), Whole(offset=wide))])
    adapted.set({"a": (convolved, 1.0)})
    beside = network(X)
    network.conv.bias.data[2:6] += wide
    adapted.set({})
    torch.testing.assert_close(network(X), beside)


def test_unmerging_restores_every_bit(network: Small) -> None:
    before = {k: v.clone() for k, v in network.state_dict().items()}
    adapted = Adapted.of(network)
    for name, (layer, change, _) in cases().items():
        adapted.set({name: (adapter(layer, change), 0.37)})  # what was merged is taken out first
        adapted.merge()
        assert adapted.merged
        assert not torch.equal(network.get_submodule(layer).weight, before[f"{layer}.weight"])
    adapted.set({})
    assert not adapted.merged
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_what_is_settled_lets_go_of_the_weights_from_before(network: Small) -> None:
    layer, change, _ = cases()["low rank"]
    adapted = Adapted.of(network)
    adapted.set({"a": (adapter(layer, change), 0.5)})
    beside, before = network(X).detach(), weakref.ref(network.get_submodule(layer).weight)
    adapted.settle()
    torch.testing.assert_close(network(X), beside)
    assert before() is None
    assert not any(m._forward_hooks for m in network.modules())
    assert Adapted.of(network) is not adapted
    for change_back in (adapted.unmerge, lambda: adapted.set({})):
        with pytest.raises(InputError, match="merged for good, as int8 needs: load the model again"):
            change_back()


def test_one_call_replaces_what_was_there_and_a_network_has_one_set(network: Small) -> None:
    (layer, change, delta), before = cases()["low rank"], network(X)
    Adapted.of(network).set({"a": (adapter(layer, change), 1.0)})
    assert Adapted.of(network) is Adapted.of(network)
    Adapted.of(network).set({"a": (adapter(layer, change), 0.25)})
    torch.testing.assert_close(network(X), dense(before_of(network), layer, delta, 0.25))
    Adapted.of(network).set({})
    assert torch.equal(network(X), before)
    assert not any(m._forward_hooks for m in network.modules())


def before_of(network: Small) -> Small:
    """The same network with nothing on it."""
    plain = Small()
    plain.load_state_dict(network.state_dict())
    return plain


def test_a_copy_of_an_adapted_network_is_adapted_by_itself(network: Small) -> None:
    layer, change, _ = cases()["low rank"]
    plain = network(X)
    Adapted.of(network).set({"a": (adapter(layer, change), 1.0)})
    with_it, twin = network(X), copy.deepcopy(network)
    Adapted.of(network).set({})
    assert torch.equal(network(X), plain)
    assert torch.equal(twin(X), with_it)
    Adapted.of(twin).merge()
    torch.testing.assert_close(twin(X), with_it)
    assert torch.equal(network(X), plain)


def test_an_adapter_can_be_trained_alone(network: Small) -> None:
    """The gradient of its own tensors through the frozen network, by finite differences."""
    network.double().requires_grad_(False)
    cases_ = {n: cases()[n] for n in ("low rank", "Hadamard", "Kronecker", "by rows", "convolution")}
    adapters = {n: adapter(layer, change).double() for n, (layer, change, _) in cases_.items()}
    Adapted.of(network).set({n: (a, 0.7) for n, a in adapters.items()})

    def loss() -> Tensor:
        return network(X.double()).square().sum()

    loss().backward()
    for a in adapters.values():
        for p in a.parameters():
            direction = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(0))
            sides = []
            for step in (1e-5, -1e-5):
                p.data += step * direction
                sides.append(float(loss().detach()))
                p.data -= step * direction
            assert p.grad is not None
            assert float((p.grad * direction).sum()) == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-4)


def test_another_precision_and_autocast(network: Small) -> None:
    """bfloat16 rounds to 2^-8; sixteen terms and three layers leave it below 5 %."""
    layer, change, delta = cases()["by rows"]
    expected = dense(network, layer, delta, 1.0)
    Adapted.of(network).set({"a": (adapter(layer, change), 1.0)})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (network(X).float() - expected).abs().max() < 0.05 * expected.abs().max()
    network.bfloat16()
    assert (network(X.bfloat16()).float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_normalisations_weights_are_replaced_whatever_the_weight() -> None:
    torch.manual_seed(3)
    norm, x, values = RMSNorm(6), torch.randn(5, 6), torch.randn(6)
    norm.weight.data = torch.randn(6)
    before, expected = norm(x), x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * values
    network = nn.Sequential(norm)
    adapted, change = Adapted.of(network), Adapter([(Place("0", 0, 6), Replaced(values))])
    for weight in (0.3, 1.0):
        adapted.set({"a": (change, weight)})
        torch.testing.assert_close(network(x), expected)
        adapted.merge()
        torch.testing.assert_close(network(x), expected)
        adapted.unmerge()
    adapted.set({"a": (change, 0.0)})
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("norm", [GroupNorm(2, 6), nn.GroupNorm(3, 6), nn.LayerNorm(5)], ids=["ours", "groups", "layer"])
def test_differences_of_normalisations(norm: nn.GroupNorm | nn.LayerNorm, layout: torch.memory_format) -> None:
    """Against another with weight and offset w D further; and so are the slopes of D, w times theirs."""
    torch.manual_seed(4)
    network, x = nn.Sequential(copy.deepcopy(norm)), torch.randn(2, 6, 4, 5).contiguous(memory_format=layout).requires_grad_()
    for p in network.parameters():
        p.data = torch.randn_like(p)
    before, twin = copy.deepcopy(network.state_dict()), copy.deepcopy(network)
    rows = len(norm.weight)
    change, weight = Whole(torch.randn(rows), torch.randn(rows)), 0.7
    for p, d in zip(twin.parameters(), change.parameters()):
        p.data += weight * d.data
    adapted = Adapted.of(network)
    adapted.set({"a": (Adapter([(Place("0", 0, rows), change)]), weight)})
    torch.testing.assert_close(network(x), twin(x))
    mine = torch.autograd.grad(network(x).pow(3).sum(), [*change.parameters()])
    _, *theirs = torch.autograd.grad(twin(x).pow(3).sum(), [x, *twin.parameters()])  # without x torch crashes in channels_last
    torch.testing.assert_close(mine, tuple(weight * g for g in theirs))
    adapted.merge()
    torch.testing.assert_close(network(x), twin(x))
    adapted.unmerge()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())

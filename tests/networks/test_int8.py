"""Layers in whole numbers of eight bits, beside numpy's exact integers."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from contract.test_networks import NETWORKS, arguments, build, flat
from torch import Tensor, nn

from unnoise.networks import int8
from unnoise.networks.int8 import Int8Conv2d, Int8Linear, available, quantised, quantised_weights, to_int8
from unnoise.networks.transformer import DiffusionTransformerConfig

pytestmark = pytest.mark.skipif(not available(), reason="this processor has neither VNNI nor AMX")

CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": (3, 1), "padding": (0, 2), "dilation": (2, 1)},
    {"kernel_size": 1},
]


def whole(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """q (B, ...) and s (B,) as the file's first lines define them, in float64."""
    a = x.double().numpy()
    s = np.abs(a).reshape(len(a), -1).max(1) / 127
    return np.rint(a / s.reshape(-1, *[1] * (a.ndim - 1))).astype(np.int64), s


def convolved(q: np.ndarray, kernel: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """Sums of whole numbers, tap by tap: (B, C, H, W), (C', C, h, w) -> (B, C', H', W')."""
    (top, left), (down, right), (dy, dx) = (tuple(map(int, v)) for v in (layer.padding, layer.stride, layer.dilation))
    padded = np.pad(q, ((0, 0), (0, 0), (top, top), (left, left)))
    rows, columns = (
        (n - d * (k - 1) - 1) // step + 1 for n, d, k, step in zip(padded.shape[2:], (dy, dx), kernel.shape[2:], (down, right))
    )
    out = np.zeros((len(q), len(kernel), rows, columns), np.int64)
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            seen = padded[:, :, i * dy :, j * dx :][:, :, : (rows - 1) * down + 1 : down, : (columns - 1) * right + 1 : right]
            out += np.einsum("bcyx,oc->boyx", seen, kernel[:, :, i, j])
    return out


def expected(layer: nn.Linear | nn.Conv2d, x: Tensor) -> np.ndarray:
    """What the layer answers in whole numbers, exactly."""
    (q, s), (weights, w) = whole(x), whole(layer.weight.detach())
    bias = np.zeros(len(w)) if layer.bias is None else layer.bias.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return s.reshape(-1, *[1] * (x.ndim - 1)) * w * (q @ weights.T) + bias
    return s[:, None, None, None] * w[:, None, None] * convolved(q, weights, layer) + bias[:, None, None]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 7, 40), (2, 40), (1, 2, 3, 40), (70, 40)])
def test_linear_layers_are_products_of_whole_numbers(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(40, 24, bias=bias)
    x = torch.randn(shape) * torch.logspace(-3, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    with torch.no_grad():
        np.testing.assert_allclose(Int8Linear(layer)(x), expected(layer, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", CONVOLUTIONS)
@pytest.mark.parametrize("last", [True, False])
def test_convolutions_are_sums_of_whole_numbers(how: dict[str, Any], last: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(17, 20, **how), torch.randn(3, 17, 9, 6) + 1
    x = x.to(memory_format=torch.channels_last) if last else x
    with torch.no_grad():
        np.testing.assert_allclose(Int8Conv2d(layer)(x), expected(layer, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_sums_do_not_overflow(sign: int) -> None:
    """Every product is 255 x 127 to the processor: two of them are above 16 bits."""
    layer = nn.Linear(4096, 16, bias=False)
    nn.init.constant_(layer.weight, float(sign))
    with torch.no_grad():
        torch.testing.assert_close(Int8Linear(layer)(torch.full((2, 4096), 3.0)), torch.full((2, 16), sign * 3.0 * 4096))


@pytest.mark.parametrize(("dtype", "steps"), [(torch.float32, 0.5), (torch.bfloat16, 0.75)])
def test_rounding_is_off_by_no_more_than_is_said(dtype: torch.dtype, steps: float) -> None:
    torch.manual_seed(0)
    x = (torch.randn(4, 5000) * torch.tensor([1e-20, 1e-3, 1.0, 1e20])[:, None]).to(dtype)
    q, scales = quantised(x)
    back = (q.double() - 128) * torch.tensor(scales, dtype=torch.float64)[:, None]
    assert int(q.min()) >= 1
    off = (back - x.double()).abs().amax(1) / torch.tensor(scales, dtype=torch.float64)
    assert float(off.max()) <= steps + 1e-4
    assert float(off.max()) > 0.45  # and the bound is no other


def test_weights_are_off_by_half_a_step_of_their_own_channel() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3) * torch.logspace(-4, 4, 6)[:, None, None, None]
    weight[2] = 0
    q, scale = quantised_weights(weight)
    off = (q.double() * scale.double()[:, None, None, None] - weight.double()).abs().flatten(1).amax(1)
    assert bool((off <= 0.5001 * scale.double()).all())
    assert torch.equal(q.abs().flatten(1).amax(1), torch.tensor([127, 127, 0, 127, 127, 127], dtype=torch.int8))


def test_a_sample_is_the_same_in_any_company() -> None:
    torch.manual_seed(0)
    layers = Int8Linear(nn.Linear(64, 48)), Int8Conv2d(nn.Conv2d(64, 48, 3, padding=1))
    for layer, x in zip(layers, (torch.randn(3, 50, 64), torch.randn(3, 64, 8, 8))):
        x[1:] *= 100
        with torch.no_grad():
            assert torch.equal(layer(x.bfloat16())[:1], layer(x[:1].bfloat16()))


def test_a_copy_answers_as_it_does() -> None:
    """oneDNN's weights have no storage that could be copied."""
    torch.manual_seed(0)
    for layer, x in ((nn.Linear(64, 48), torch.randn(3, 64)), (nn.Conv2d(64, 48, 3), torch.randn(3, 64, 8, 8))):
        ours = Int8Linear(layer) if isinstance(layer, nn.Linear) else Int8Conv2d(layer)
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(nn.Sequential(ours))(x), ours(x))


def test_what_is_nothing_or_no_number_stays_so_in_its_sample_alone() -> None:
    x = torch.randn(4, 5, 64)
    x[0], x[1, 2, 3], x[2, 0, 0] = 0, torch.nan, torch.inf
    layer = nn.Linear(64, 48)
    with torch.no_grad():
        y = Int8Linear(layer)(x)
        assert torch.equal(y[0], layer.bias.expand(5, 48))
    assert bool(y[1].isnan().all())
    assert not bool(y[2].isfinite().any())
    assert bool(y[3].isfinite().all())


def test_it_answers_in_the_precision_of_its_input_or_of_autocast() -> None:
    layer, x = Int8Linear(nn.Linear(64, 48)), torch.randn(2, 64)
    assert layer(x).dtype == torch.float32
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("name", [n for n in NETWORKS if not n.startswith(("mp_unet", "table"))])
def test_blocks_of_every_network_run_in_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All layers in place, though narrow; none of them sees one vector a sample; and noise of two rounded factors comes out."""
    monkeypatch.setattr(int8, "LEAST", 1)
    network, (x, level, cond) = build(name).eval(), arguments(name)
    axes: list[int] = []
    with torch.no_grad():
        usual = flat(network(x, level, cond))
        assert to_int8(network) > 8
        assert int8.in_int8(network)
        for m in network.modules():
            if isinstance(m, Int8Linear | Int8Conv2d):
                m.register_forward_pre_hook(lambda _, inputs: axes.append(inputs[0].ndim))
        rounded = flat(network(x, level, cond))
    assert min(axes) >= 3
    assert 0 < float((rounded - usual).norm() / usual.norm()) < 0.1


def test_where_a_network_is_entered_stays() -> None:
    """However many layers that takes."""
    network = DiffusionTransformerConfig(3, 8, 128, 1, 2, 128, token_dim=128).build()
    assert isinstance(network.patches, nn.Sequential)
    assert to_int8(network) > 0
    assert not any(isinstance(m, Int8Linear) for m in network.patches)


def test_narrow_layers_groups_and_other_padding_stay() -> None:
    network = nn.Sequential(
        nn.Sequential(nn.Linear(128, 127), nn.Linear(127, 128), nn.Linear(128, 128)),
        nn.ModuleDict({"modulation": nn.Linear(128, 128), "mix": nn.Conv2d(128, 128, 3, groups=128)}),
        nn.ModuleDict({"around": nn.Conv2d(128, 128, 3, padding=1, padding_mode="circular")}),
        nn.ModuleDict({"same": nn.Conv2d(128, 128, 3, padding="same"), "wide": nn.Conv2d(128, 128, 3)}),
        nn.Linear(128, 128),
    )
    assert to_int8(network) == 2
    found = [n for n, m in network.named_modules() if isinstance(m, Int8Linear | Int8Conv2d)]
    assert found == ["0.2", "3.wide"]

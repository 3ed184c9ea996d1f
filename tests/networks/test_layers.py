"""Shared layers against torch's own and against their definitions."""

import pytest
import torch
from torch.nn import functional as F

from unnoise.networks.layers import ModulatedBlock, RMSNorm, SwiGLU, context_of, pad_to_multiple, rms_normalise


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_rms_norm_is_torchs(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    norm, x = RMSNorm(12).to(dtype), (scale * torch.randn(3, 5, 12)).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(12) + 0.5)
    expected = F.rms_norm(x.double(), (12,), norm.weight.double(), 1e-6)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-6}[dtype]
    torch.testing.assert_close(norm(x).double(), expected, rtol=tolerance, atol=tolerance)


def test_rms_norm_of_zero_is_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    y = rms_normalise(x)
    y.sum().backward()
    assert not y.any()
    torch.testing.assert_close(x.grad, torch.full((2, 4), 1e3))  # 1 / sqrt(eps)


def test_swiglu_is_its_formula_and_costs_what_a_plain_mlp_of_four_times_the_width_costs() -> None:
    torch.manual_seed(0)
    layer, x = SwiGLU(96), torch.randn(2, 96)
    hidden = layer.out.in_features
    w1, w2 = layer.hidden.weight[:hidden], layer.hidden.weight[hidden:]
    b1, b2 = layer.hidden.bias[:hidden], layer.hidden.bias[hidden:]
    gate = x @ w1.T + b1
    expected = (gate * torch.sigmoid(gate) * (x @ w2.T + b2)) @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    assert 3 * 96 * hidden == pytest.approx(2 * 96 * 4 * 96, rel=0.01)


def test_a_new_modulated_block_is_the_identity() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 16)
    assert torch.equal(ModulatedBlock(16, 2)(x, torch.randn(2, 16)), x)


@pytest.mark.parametrize(("size", "multiple", "padded"), [((5, 6), 4, (8, 8)), ((4, 8), 4, (4, 8)), ((1, 1), 8, (8, 8))])
def test_padding_repeats_the_border(size: tuple[int, int], multiple: int, padded: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    y = pad_to_multiple(x, multiple)
    rows, columns = (torch.arange(n).clamp(max=m - 1) for n, m in zip(padded, size))
    assert torch.equal(y, x[:, :, rows][..., columns])


def test_a_context_without_a_mask_counts_whole() -> None:
    tokens = torch.randn(2, 3, 4)
    assert context_of({}, torch.float32) is None
    context = context_of({"tokens": tokens}, torch.float32)
    assert context is not None
    assert torch.equal(context[0], tokens)
    assert bool(context[1].all())
